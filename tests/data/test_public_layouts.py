"""The layouts of public data sets as their archives hold them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from fastalign.data import ANOMALY, GOOD, load_masks, open_category
from fastalign.errors import InputError


def described(category):
    """Training images, test images as (path, label, masks), and what is not used."""

    def name(path):
        return path.relative_to(category.root).as_posix()

    return (
        [name(sample.path) for sample in category.train],
        [(name(s.path), s.label, [name(m) for m in s.mask_paths]) for s in category.test],
        {name(item.path): item.reason for item in category.passed_over},
    )


def test_kolektor_sdd2(tree):
    root = tree(
        ["train/10000.png", "train/10001.png", "test/20000.png", "test/20001.png"],
        marked=["train/10001_GT.png", "test/20000_GT.png"],
        blank=["train/10000_GT.png", "test/20001_GT.png"],
    )
    category = open_category(root)
    assert category.layout == "pairs"
    assert described(category) == (
        ["train/10000.png"],
        [("test/20000.png", ANOMALY, ["test/20000_GT.png"]), ("test/20001.png", GOOD, [])],
        {
            "train/10001.png": "defect in a training image, by its mask",
            "train/10001_GT.png": "mask of an image that is not used",
        },
    )


def test_where_every_image_has_a_mask_one_without_is_not_taken_as_good(tree):
    root = tree(["train/1.png", "train/2.png", "test/3.png"], blank=["train/1_GT.png"])
    train, test, passed = described(open_category(root))
    assert train == ["train/1.png"] and "not known to be good" in passed["train/2.png"]
    assert test == [("test/3.png", GOOD, [])]


def test_kolektor_sdd(tree):
    names = [f"kos{item:02d}/Part{part}" for item in (1, 2, 10) for part in (0, 1)]
    defects = ["kos01/Part1", "kos02/Part0"]
    root = tree(
        [f"{name}.jpg" for name in names],
        marked=[f"{name}_label.bmp" for name in defects],
        blank=[f"{name}_label.bmp" for name in names if name not in defects],
    )
    category = open_category(root)
    assert category.layout == "items"
    train, test, passed = described(category)
    assert train == ["kos01/Part0.jpg", "kos10/Part0.jpg", "kos10/Part1.jpg"]
    assert test == [
        ("kos01/Part1.jpg", ANOMALY, ["kos01/Part1_label.bmp"]),
        ("kos02/Part0.jpg", ANOMALY, ["kos02/Part0_label.bmp"]),
        ("kos02/Part1.jpg", GOOD, []),
    ]
    assert passed == {} and {s.split for s in category.train} == {"train"}


def test_dagm(tree):
    root = tree(
        ["Train/0001.PNG", "Train/0002.PNG", "Test/0001.PNG", "Test/0002.PNG"],
        marked=["Train/Label/0002_label.PNG", "Test/Label/0001_label.PNG"],
    )
    (root / "Train" / "Label" / "Labels.txt").write_text("0002\t1\t0002.PNG\t0\t0002_label.PNG")
    train, test, passed = described(open_category(root))
    assert train == ["Train/0001.PNG"]
    assert test == [
        ("Test/0001.PNG", ANOMALY, ["Test/Label/0001_label.PNG"]),
        ("Test/0002.PNG", GOOD, []),
    ]
    assert passed["Train/Label/Labels.txt"] == "no image" and len(passed) == 3


def test_images_and_masks_in_two_folders(tree):
    root = tree(["images/a.jpg", "images/b.jpg"], marked=["masks/b.png"], blank=["masks/a.png"])
    train, test, passed = described(open_category(root))
    assert (train, passed) == (["images/a.jpg"], {})
    assert test == [("images/b.jpg", ANOMALY, ["masks/b.png"])]


def test_images_and_masks_inside_the_folder_of_a_defect(tree):
    root = tree(
        ["train/good/0.png", "test/good/images/0.png", "test/hole/images/0.png"],
        marked=["test/hole/masks/0.png"],
        blank=["test/good/masks/0.png"],
    )
    train, test, passed = described(open_category(root))
    assert (train, passed) == (["train/good/0.png"], {})
    assert test == [
        ("test/good/images/0.png", GOOD, []),
        ("test/hole/images/0.png", ANOMALY, ["test/hole/masks/0.png"]),
    ]


def test_images_in_a_folder_of_that_name_and_in_others(tree):
    root = tree(["good/images/0.png", "good/day2/0.png", "good/1.png"])
    train, _, passed = described(open_category(root))
    assert (train, passed) == (["good/1.png", "good/day2/0.png", "good/images/0.png"], {})


def test_bmad(tree):
    root = tree(
        ["train/good/0.png", "test/good/img/1.png", "test/Ungood/img/2.png"]
        + ["valid/good/img/3.png", "valid/Ungood/img/4.png"],
        marked=["test/Ungood/label/2.png", "valid/Ungood/label/4.png"],
        blank=["test/good/label/1.png"],
    )
    train, test, passed = described(category := open_category(root))
    assert train == ["train/good/0.png"] and len(category.validation) == 1
    assert test == [
        ("test/Ungood/img/2.png", ANOMALY, ["test/Ungood/label/2.png"]),
        ("test/good/img/1.png", GOOD, []),
    ]
    assert set(passed) == {"valid/Ungood/img/4.png", "valid/Ungood/label/4.png"}


def test_mvtec_3d(tree):
    root = tree(
        ["train/good/rgb/000.png", "validation/good/rgb/000.png"]
        + ["test/good/rgb/000.png", "test/hole/rgb/000.png"],
        marked=["test/hole/gt/000.png"],
        blank=["test/good/gt/000.png"],
    )
    for place in ("train/good", "test/good", "test/hole"):
        (root / place / "xyz").mkdir()
        (root / place / "xyz" / "000.tiff").write_bytes(b"three floats a pixel")
    (root / "calibration").mkdir()
    (root / "calibration" / "camera_parameters.json").write_text("{}")
    category = open_category(root)
    train, test, passed = described(category)
    assert train == ["train/good/rgb/000.png"] and len(category.validation) == 1
    assert test == [
        ("test/good/rgb/000.png", GOOD, []),
        ("test/hole/rgb/000.png", ANOMALY, ["test/hole/gt/000.png"]),
    ]
    assert passed["test/hole/xyz/000.tiff"] == "shapes and no photographs"
    assert len(passed) == 4


def test_mvtec_loco(tree):
    root = tree(
        ["train/good/000.png", "validation/good/000.png", "test/good/000.png"]
        + ["test/logical_anomalies/000.png", "test/logical_anomalies/001.png"],
        marked=[
            "ground_truth/logical_anomalies/000/000.png",
            "ground_truth/logical_anomalies/001/000.png",
        ],
    )
    other = np.zeros((12, 16), np.uint8)
    other[9, 9] = 254  # the saturation of this kind of defect; not 0 is anomalous
    Image.fromarray(other).save(root / "ground_truth/logical_anomalies/001/001.png")
    (root / "defects_config.json").write_text("[]")
    train, test, passed = described(category := open_category(root))
    assert train == ["train/good/000.png"] and list(passed) == ["defects_config.json"]
    masks = [f"ground_truth/logical_anomalies/001/00{i}.png" for i in (0, 1)]
    assert test[2] == ("test/logical_anomalies/001.png", ANOMALY, masks)
    sample = category.test[2]
    assert load_masks(sample.mask_paths, (12, 16), image_path=sample.path).sum() == 15 + 1
    with pytest.raises(ValueError, match="2 masks"):
        _ = sample.mask_path


def test_mpdd(tree):
    root = tree(
        ["train/good/000.png", "test/good/000.png", "test/hole/000.png"],
        marked=["ground_truth/hole/000_mask.png"],
    )
    train, test, passed = described(open_category(root))
    assert (train, passed) == (["train/good/000.png"], {})
    assert test[1] == ("test/hole/000.png", ANOMALY, ["ground_truth/hole/000_mask.png"])


@pytest.fixture
def realiad(tree):
    return tree(
        ["r/nut/OK/S1/a.jpg", "r/nut/OK/S2/b.jpg", "r/nut/OK/S3/c.jpg", "r/nut/NG/AK/S1/d.jpg"],
        marked=["r/nut/NG/AK/S1/d_mask.png"],
    )


def realiad_row(image, kind="OK", mask=None):
    return {"category": "nut", "anomaly_class": kind, "image_path": image, "mask_path": mask}


@pytest.mark.parametrize("place", ["r/nut.json", "realiad_jsons/nut.json"])
def test_real_iad(realiad, place):
    table = realiad / place
    table.parent.mkdir(exist_ok=True)
    split = {
        "meta": {"normal_class": "OK"},
        "train": [realiad_row("OK/S1/a.jpg")],
        "test": [
            realiad_row("OK/S2/b.jpg"),
            realiad_row("NG/AK/S1/d.jpg", "AK", "NG/AK/S1/d_mask.png"),
        ],
    }
    table.write_text(json.dumps(split))
    train, test, passed = described(category := open_category(realiad / "r" / "nut"))
    assert (category.layout, train) == ("realiad", ["OK/S1/a.jpg"])
    assert test == [
        ("NG/AK/S1/d.jpg", ANOMALY, ["NG/AK/S1/d_mask.png"]),
        ("OK/S2/b.jpg", GOOD, []),
    ]
    assert [s.defect for s in category.test] == ["AK", "good"]
    assert passed == {"OK/S3/c.jpg": "not in the split nut.json"}


def test_real_iad_without_its_split(realiad):
    train, test, _ = described(category := open_category(realiad / "r" / "nut"))
    assert len(train) == 3 and test[0][2] == ["NG/AK/S1/d_mask.png"]
    assert "no file nut.json" in category.notes[0]


@pytest.mark.parametrize("endings", [("jpg", "png"), ("png", "bmp"), ("JPG", "PNG")])
def test_masks_that_differ_from_their_images_in_the_ending_alone(tree, endings):
    photograph, mask = endings
    root = tree(
        [f"OK/S1/a.{photograph}", *(f"NG/AK/S1/{n}.{photograph}" for n in range(3))],
        marked=[f"NG/AK/S1/{n}.{mask}" for n in range(3)],
    )
    train, test, passed = described(open_category(root))
    assert (train, passed) == ([f"OK/S1/a.{photograph}"], {})
    assert test == [
        (f"NG/AK/S1/{n}.{photograph}", ANOMALY, [f"NG/AK/S1/{n}.{mask}"]) for n in range(3)
    ]


def test_photographs_in_two_formats_are_no_masks(tree):
    root = tree(["good/a.jpg", "good/a.png", "bad/b.jpg", "bad/b.png"])
    category = open_category(root)
    assert len(category.train) == 2 and len(category.test) == 2


def test_pairs_by_their_endings_in_one_folder(tree):
    root = tree(["a.jpg", "b.jpg", "c.jpg"], marked=["b.png"], blank=["a.png", "c.png"])
    train, test, _ = described(open_category(root))
    assert train == ["a.jpg", "c.jpg"] and test == [("b.jpg", ANOMALY, ["b.png"])]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"train": [realiad_row("OK/S9/z.jpg")], "test": []}, r"z\.jpg: nut\.json names this"),
        ({"train": [realiad_row("NG/AK/S1/d.jpg", "AK")], "test": []}, "anomalous training image"),
        ({"train": [{}], "test": []}, "cannot be read"),
        ([], "cannot be read"),
    ],
)
def test_real_iad_with_a_bad_split(realiad, split, message):
    (realiad / "r" / "nut.json").write_text(json.dumps(split))
    with pytest.raises(InputError, match=message):
        open_category(realiad / "r" / "nut")


def test_a_good_photograph_with_a_mask_that_marks_something(tree):
    root = tree(["train/good/0.png"], marked=["train/good/0_GT.png"])
    with pytest.raises(InputError, match=r"0_GT\.png: this mask marks a defect in .*0\.png"):
        open_category(root)


def test_masks_that_a_model_wrote_beside_the_photographs_say_nothing(tree):
    root = tree(["0.png", "1.png"], marked=["masks/0.png"])
    (root / "predictions.json").write_text("{}")
    train, test, passed = described(open_category(root))
    assert (train, test) == (["0.png", "1.png"], []) and "masks" in passed
