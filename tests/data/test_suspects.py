from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fastalign.data import open_category
from fastalign.data.suspects import looks_like_mask
from fastalign.errors import InputError


@pytest.mark.parametrize(
    "masks",
    [
        ["good/1-defect.png", "good/2-defect.png"],
        ["good/m/1.png", "good/m/2.png"],
        ["good/GT-old/001.png", "good/GT-old/002.png"],
        ["good/1seg.png", "good/2seg.png"],
    ],
    ids=["longer names", "a folder", "a folder of other names", "no separator"],
)
def test_masks_among_photographs_stop_it(tree, masks):
    photographs = [f"good/{i}.png" for i in range(1, 10)]
    photographs += ["good/001.png", "good/002.png"] if "GT" in masks[0] else []
    root = tree(photographs, marked=masks)
    with pytest.raises(InputError) as caught:
        open_category(root)
    message = str(caught.value)
    assert f"2 of {len(photographs) + 2} files look like masks" in message
    assert all(str(root / name) in message for name in masks) and "ground_truth" in message


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ("mask_{}.png", "blank"),
        ("GT{}.png", "blank"),
        ("gt_{}.png", "marked"),
        ("part{}_bw.png", "marked"),
        ("other/m{}_7.png", "marked"),
    ],
)
def test_masks_that_no_photographs_name_begins(tree, names, kind):
    photographs = [f"good/part{i}_rgb.png" for i in range(4)]
    root = tree(photographs, **{kind: [f"good/{names.format(i)}" for i in range(4)]})
    with pytest.raises(InputError, match=r"4 of 8 files look like masks.*series of .*part0_rgb"):
        open_category(root)


def test_a_series_of_dark_photographs_is_none_of_masks(tree):
    root = tree([f"good/a{i}.png" for i in range(3)], blank=[f"good/b{i}.png" for i in range(3)])
    assert len(open_category(root).train) == 6


def test_a_folder_named_after_masks(tree):
    root = tree(["good/1.png", "bad/2.png"], marked=["bad/label/a.png", "bad/label/b.png"])
    assert all(sample.path.name == "2.png" for sample in open_category(root).test)
    root = tree(marked=["bad/segmentation/x/c.png"])
    with pytest.raises(InputError, match="mean the same"):
        open_category(root)


def test_photographs_of_labels_are_photographs(tree):
    root = tree([f"good/label/{i}.png" for i in range(3)] + ["label/1.png", "test_gt/1.png"])
    category = open_category(root)
    assert [s.path.name for s in category.train] == ["0.png", "1.png", "2.png"]
    assert [s.defect for s in category.test] == ["label", "test_gt"]


def test_names_that_extend_others_alone_say_nothing(tree):
    tree(["good/1.png", "good/1_2.png", "good/1 (copy).png"], marked=["good/x.png", "good/x_2.png"])
    root = tree()
    assert len(open_category(root).train) == 5


def test_black_and_white_photographs_among_themselves(tree):
    root = tree(marked=["good/1.png", "good/1-a.png", "good/2.png", "good/2-a.png"])
    assert len(open_category(root).train) == 4


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def test_what_looks_like_a_mask(tmp_path):
    rows, columns = np.mgrid[:64, :64]
    disc = np.clip(40 - 2 * np.hypot(rows - 32, columns - 32), 0, 1)
    photograph = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    binary = (disc * 255).astype(np.uint8)
    assert looks_like_mask(save(tmp_path / "0.png", binary))
    assert looks_like_mask(save(tmp_path / "1.jpg", binary, quality=80))
    assert looks_like_mask(save(tmp_path / "2.png", binary.astype(np.uint16) * 257))
    assert looks_like_mask(save(tmp_path / "3.png", (disc > 0.5)))
    assert looks_like_mask(save(tmp_path / "4.png", np.stack([binary, binary * 0, binary], 2)))
    assert not looks_like_mask(save(tmp_path / "5.png", photograph))
    assert not looks_like_mask(save(tmp_path / "6.png", photograph[..., 0].astype(np.uint16) * 9))
    dark = (photograph // 9 + 200 * (photograph[..., :1] > 253)).astype(np.uint8)
    assert not looks_like_mask(save(tmp_path / "8.png", dark))
    (tmp_path / "7.png").write_bytes(b"no image")
    assert not looks_like_mask(tmp_path / "7.png")
