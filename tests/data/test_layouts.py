from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastalign.data import ANOMALY, GOOD, LAYOUTS, UNKNOWN, open_category
from fastalign.errors import ConfigError, InputError


def names(samples, root):
    return [sample.path.relative_to(root).as_posix() for sample in samples]


def mask_names(samples, root):
    return [
        sample.mask_path and sample.mask_path.relative_to(root).as_posix() for sample in samples
    ]


def passed(category):
    """What is not used, and why."""
    return {
        item.path.relative_to(category.root).as_posix(): item.reason
        for item in category.passed_over
    }


def test_mvtec(make):
    root = make(
        "train/good/001.png",
        "train/good/000.png",
        "test/good/000.png",
        "test/crack/000.png",
        "test/crack/001.png",
        "test/bent/000.png",
        "ground_truth/crack/000_mask.png",
        "ground_truth/crack/001_mask.png",
        "ground_truth/bent/000_mask.png",
    )
    category = open_category(root, require_masks=True)
    assert (category.name, category.layout, category.root) == (root.name, "mvtec", root)
    assert names(category.train, root) == ["train/good/000.png", "train/good/001.png"]
    assert {(s.label, s.defect, s.split, s.mask_path) for s in category.train} == {
        (GOOD, "good", "train", None)
    }
    assert [(s.label, s.defect) for s in category.test] == [
        (ANOMALY, "bent"),
        (ANOMALY, "crack"),
        (ANOMALY, "crack"),
        (GOOD, "good"),
    ]
    assert mask_names(category.test, root) == [
        "ground_truth/bent/000_mask.png",
        "ground_truth/crack/000_mask.png",
        "ground_truth/crack/001_mask.png",
        None,
    ]
    assert category.anomalous == category.test[:3]
    assert category.validation == category.unlabelled == category.notes == []


def test_mvtec_as_text_and_relative_path(make, monkeypatch):
    root = make("train/good/0.png")
    monkeypatch.chdir(root)
    category = open_category(".")
    assert category.name == root.name
    assert category.train[0].path == Path("train/good/0.png")


def test_mvtec2(make):
    root = make(
        "train/good/000_regular.png",
        "validation/good/000_regular.png",
        "test_public/good/000_regular.png",
        "test_public/bad/000_overexposed.png",
        "test_public/ground_truth/bad/000_overexposed_mask.png",
        "test_private/000_regular.png",
        "test_private_mixed/000_mixed.png",
    )
    category = open_category(root, require_masks=True)
    assert category.layout == "mvtec2"
    assert [s.split for s in category.train + category.validation] == ["train", "validation"]
    assert names(category.test, root) == [
        "test_public/bad/000_overexposed.png",
        "test_public/good/000_regular.png",
    ]
    assert mask_names(category.test, root)[0].endswith("000_overexposed_mask.png")
    assert [(s.split, s.label, s.defect) for s in category.unlabelled] == [
        ("test_private", UNKNOWN, ""),
        ("test_private_mixed", UNKNOWN, ""),
    ]


@pytest.mark.parametrize("mask_suffix", ["png", "bmp"])
def test_btad(make, mask_suffix):
    root = make(
        "train/ok/0000.bmp",
        "test/ok/0001.bmp",
        "test/ko/0002.bmp",
        f"ground_truth/ko/0002.{mask_suffix}",
    )
    category = open_category(root, require_masks=True)
    assert category.layout == "btad"
    assert [(s.label, s.defect) for s in category.test] == [(ANOMALY, "ko"), (GOOD, "good")]
    assert mask_names(category.test, root)[0] == f"ground_truth/ko/0002.{mask_suffix}"


@pytest.fixture
def visa(make):
    root = make(
        "candle/Data/Images/Normal/0001.JPG",
        "candle/Data/Images/Normal/0000.JPG",
        "candle/Data/Images/Anomaly/000.JPG",
        "candle/Data/Masks/Anomaly/000.png",
        "pcb1/Data/Images/Normal/0000.JPG",
    )
    (root / "split_csv").mkdir()
    (root / "split_csv" / "1cls.csv").write_text(
        "object,split,label,image,mask\n"
        "candle,train,normal,candle/Data/Images/Normal/0001.JPG,\n"
        "candle,test,normal,candle/Data/Images/Normal/0000.JPG,\n"
        "candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png\n"
        "pcb1,train,normal,pcb1/Data/Images/Normal/0000.JPG,\n"
    )
    return root


def test_visa_as_published(visa):
    root = visa / "candle"
    category = open_category(root, require_masks=True)
    assert (category.name, category.layout) == ("candle", "visa")
    assert names(category.train, root) == ["Data/Images/Normal/0001.JPG"]
    assert names(category.test, root) == [
        "Data/Images/Anomaly/000.JPG",
        "Data/Images/Normal/0000.JPG",
    ]
    assert [s.label for s in category.test] == [ANOMALY, GOOD]
    assert mask_names(category.test, root) == ["Data/Masks/Anomaly/000.png", None]


def test_visa_through_a_link_keeps_the_path_that_was_given(visa, tmp_path):
    link = tmp_path / "shortcut"
    link.symlink_to(visa / "candle")
    category = open_category(link)
    assert category.train[0].path == link / "Data/Images/Normal/0001.JPG"


def test_visa_without_its_table(visa):
    (visa / "split_csv" / "1cls.csv").unlink()
    with pytest.raises(InputError, match=r"split table was not found.*split_csv/1cls\.csv"):
        open_category(visa / "candle")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.replace("object,", "thing,"), "lacks the columns object"),
        (lambda t: t.replace("candle,", "lamp,"), "no row for the object 'candle'.*lamp, pcb1"),
        (lambda t: t.replace("candle,test", "candle,val"), "split 'val' is neither"),
        (lambda t: t.replace("0001.JPG", "0009.JPG"), r"0009\.JPG: 1cls\.csv names this file"),
        (lambda t: t.replace("test,anomaly", "train,anomaly"), "anomalous training image"),
        (lambda t: "", "lacks the columns"),
        (lambda t: t.replace("candle", "\xff"), "cannot be read"),
    ],
)
def test_visa_with_a_bad_table(visa, edit, message):
    table = visa / "split_csv" / "1cls.csv"
    table.write_text(edit(table.read_text()), encoding="latin-1")
    with pytest.raises(InputError, match=message):
        open_category(visa / "candle")


def test_visa_converted(make):
    root = make("train/good/0.JPG", "test/good/0.JPG", "test/bad/1.JPG", "ground_truth/bad/1.png")
    automatic = open_category(root, require_masks=True)
    named = open_category(root, layout="visa", require_masks=True)
    assert (automatic.layout, named.layout) == ("mvtec", "visa")
    assert automatic.test == named.test
    assert mask_names(named.test, root)[0] == "ground_truth/bad/1.png"


@pytest.mark.parametrize("name", ["good", "OK", "Normal"])
def test_good_alone_is_enough(make, name):
    root = make(f"{name}/a.png", f"{name}/deeper/b.jpeg")
    category = open_category(root)
    assert category.layout == "folder"
    assert names(category.train, root) == [f"{name}/a.png", f"{name}/deeper/b.jpeg"]
    assert category.test == [] and category.notes == []


def test_images_directly_in_the_folder(make):
    root = make("b.png", "a.JPG", "results/overlay.png")
    category = open_category(root)
    assert names(category.train, root) == ["a.JPG", "b.png"]
    assert category.layout == "folder"
    reason = f"only the images directly in {root} are learned from"
    assert passed(category) == {"results/overlay.png": reason}


def test_good_with_folders_of_defects(make):
    root = make(
        "good/0.png",
        "scratch/0.png",
        "dent/0.png",
        "masks/scratch/0_mask.png",
        "masks/dent/0.png",
    )
    category = open_category(root, require_masks=True)
    assert [(s.defect, s.label) for s in category.test] == [("dent", 1), ("scratch", 1)]
    assert mask_names(category.test, root) == ["masks/dent/0.png", "masks/scratch/0_mask.png"]
    assert "taken as anomalous test images: dent, scratch" in category.notes[0]


def test_one_folder_of_defects_may_share_the_folder_of_masks(make):
    root = make("good/0.png", "bad/0.png", "masks/0.png")
    assert mask_names(open_category(root).test, root) == ["masks/0.png"]
    make("worse/0.png")
    assert mask_names(open_category(root).test, root) == [None, None]


def test_good_with_a_test_and_a_validation_folder(make):
    root = make("good/0.png", "test/good/0.png", "test/bad/0.png", "val/0.png", "extra/0.png")
    category = open_category(root)
    assert [s.defect for s in category.test] == ["bad", "good"]
    assert names(category.validation, root) == ["val/0.png"]


@pytest.mark.parametrize("tree", [("good/0.png",), ("train/good/0.png",)])
def test_test_images_without_folders_have_no_label(make, tree):
    root = make(*tree, "test/0.png", "test/1.png")
    category = open_category(root)
    assert category.test == []
    assert [s.label for s in category.unlabelled] == [UNKNOWN, UNKNOWN]
    assert "2 images" in category.notes[0] and "no label" in category.notes[0]


def test_a_test_folder_alone_can_be_evaluated(make):
    root = make("test/good/0.png", "test/bad/0.png", "ground_truth/bad/0_mask.png")
    category = open_category(root)
    assert category.layout == "mvtec" and category.train == [] and len(category.test) == 2


def test_whatever_is_no_image_is_passed_over(make):
    root = make("train/good/0.png", "train/good/._0.png", ".hidden/good/0.png")
    for name in ("Thumbs.db", "notes.txt", "list.csv", ".DS_Store"):
        (root / "train" / "good" / name).write_bytes(b"\xff\xd8\xff but no image")
    make("train/good/__MACOSX/0.png", "train/good/@eaDir/0.png")
    assert names(open_category(root).train, root) == ["train/good/0.png"]


def test_an_image_with_a_strange_ending_or_none_counts(make):
    root = make("good/a.png", "good/b.bmp", "good/c.webp")
    (root / "good" / "a.png").rename(root / "good" / "a")
    (root / "good" / "b.bmp").rename(root / "good" / "b.cam1")
    (root / "good" / "c.webp").rename(root / "good" / "c.0042")
    (root / "good" / "BMW").write_bytes(b"BM is no bitmap")
    assert names(open_category(root).train, root) == ["good/a", "good/b.cam1", "good/c.0042"]


def test_order_is_by_path_not_as_the_disk_lists(make, monkeypatch):
    root = make(*(f"train/good/{i:02d}.png" for i in range(12)))
    expected = open_category(root).train
    walk, listing = os.walk, Path.iterdir

    def reversed_walk(*args, **kwargs):
        for place, folders, files in walk(*args, **kwargs):
            folders.sort(reverse=True)
            yield place, folders, sorted(files, reverse=True)

    monkeypatch.setattr(os, "walk", reversed_walk)
    monkeypatch.setattr(Path, "iterdir", lambda self: reversed(sorted(listing(self))))
    assert open_category(root).train == expected


def test_a_missing_mask(make):
    root = make(
        "train/good/0.png",
        "test/bad/0.png",
        "test/bad/1.png",
        "test/bad/2.png",
        "ground_truth/bad/1_mask.png",
    )
    category = open_category(root)
    assert mask_names(category.test, root) == [None, "ground_truth/bad/1_mask.png", None]
    assert "2 of 3 anomalous test images have no mask" in category.notes[0]
    with pytest.raises(InputError, match=r"bad/0\.png: no mask.*1 others.*0_mask\.png"):
        open_category(root, require_masks=True)


def test_no_such_folder_a_file_and_an_unknown_layout(make):
    root = make("good/0.png")
    with pytest.raises(InputError, match="nowhere: there is no such folder"):
        open_category(root / "nowhere")
    with pytest.raises(InputError, match=r"0\.png: this is a file"):
        open_category(root / "good" / "0.png")
    with pytest.raises(ConfigError, match="layout 'coco': choose one of auto, visa, mvtec2"):
        open_category(root, layout="coco")


def test_an_empty_folder(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path}: the folder is empty.*good"):
        open_category(tmp_path)


@pytest.mark.parametrize("folder", ["good", "train/good", "train/ok"])
def test_a_folder_of_good_images_without_images(tmp_path, folder):
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "readme.txt").write_text("soon")
    with pytest.raises(InputError, match=rf"{folder}: no images in this folder.*\.png"):
        open_category(tmp_path)


def test_the_message_lists_what_was_looked_for_and_found(make):
    root = make(*(f"part{i}/x/0.png" for i in range(10)))
    with pytest.raises(InputError) as caught:
        open_category(root)
    message = str(caught.value)
    for layout in LAYOUTS.values():
        assert f"  {layout.name}: {layout.looks_for}" in message
    assert "found: part0, part1" in message and "and 2 more" in message


def test_a_named_layout_that_is_not_there(make):
    root = make("good/0.png")
    with pytest.raises(InputError, match=r"Looked for\n  btad: train/ok.*\nand found: good\."):
        open_category(root, layout="btad")


def test_a_whole_data_set_is_recognised(make):
    root = make("bolt/train/good/0.png", "nut/train/good/0.png")
    with pytest.raises(InputError, match=r"holds 2 categories \(bolt, nut\).*bolt\."):
        open_category(root)


def test_two_folders_that_mean_the_same(make):
    with pytest.raises(InputError, match="the folders good, ok mean the same"):
        open_category(make("train/good/0.png", "train/ok/0.png"))


def test_training_folders_other_than_good_are_left_aside(make):
    category = open_category(make("train/good/0.png", "train/bad/0.png"))
    assert len(category.train) == 1
    reason = f"only {category.root / 'train/good'} is learned from"
    assert passed(category) == {"train/bad/0.png": reason}


def test_a_folder_that_cannot_be_listed(make, monkeypatch):
    root = make("train/good/0.png", "train/good/more/0.png")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    scandir = os.scandir
    monkeypatch.setattr(
        os, "scandir", lambda path: refuse(path) if str(path).endswith("more") else scandir(path)
    )
    with pytest.raises(InputError, match="more: cannot be listed: Permission denied"):
        open_category(root)
