from __future__ import annotations

import os

import pytest

from fastalign.data import list_folder, list_images, open_category
from fastalign.data.listing import DEAD_LINK, HIDDEN, LOOP, NO_FILE, NO_IMAGE, TWICE, UNREADABLE


def reasons(listing, root):
    return {p.path.relative_to(root).as_posix(): p.reason for p in listing.passed_over}


def names(listing, root):
    return [path.relative_to(root).as_posix() for path in listing.images]


def test_every_file_is_an_image_or_has_a_reason(make):
    root = make("b/1.png", "a.png", ".cache/2.png", "thumbs/a.png")
    for name in ("notes.txt", "c.jxl", "d.CR2", "Thumbs.db", "unknown"):
        (root / name).write_bytes(b"anything")
    (root / "gone").symlink_to(root / "nowhere")
    os.mkfifo(root / "pipe")
    listing = list_folder(root)
    assert names(listing, root) == ["a.png", "b/1.png"]
    assert reasons(listing, root) == {
        ".cache": HIDDEN,
        "thumbs": HIDDEN,
        "Thumbs.db": HIDDEN,
        "notes.txt": NO_IMAGE,
        "unknown": NO_IMAGE,
        "c.jxl": UNREADABLE,
        "d.CR2": UNREADABLE,
        "gone": DEAD_LINK,
        "pipe": NO_FILE,
    }


def test_links_to_folders_are_followed_once_and_loops_end(make, tmp_path_factory):
    root = make("real/1.png", "real/deep/2.png")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (root / "real" / "1.png").rename(elsewhere / "3.png")
    (root / "a_link").symlink_to(root / "real")
    (root / "far").symlink_to(elsewhere)
    (root / "real" / "deep" / "up").symlink_to(root)
    (root / "self").symlink_to(root)
    (elsewhere / "back").symlink_to(root / "real")
    listing = list_folder(root)
    assert names(listing, root) == ["far/3.png", "real/deep/2.png"]
    assert reasons(listing, root) == {
        "a_link": TWICE,
        "self": LOOP,
        "real/deep/up": LOOP,
        "far/back": TWICE,
    }


def test_a_link_with_the_ending_of_an_image_that_leads_nowhere_is_told_when_it_is_read(make):
    root = make("1.png")
    (root / "2.png").symlink_to(root / "nowhere")
    assert [path.name for path in list_images(root)] == ["1.png", "2.png"]


def test_a_linked_folder_of_good_photographs(make, tmp_path_factory):
    root = make("good/1.png")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (root / "good" / "1.png").rename(elsewhere / "2.png")
    (root / "good" / "day2").symlink_to(elsewhere)
    assert [s.path for s in open_category(root).train] == [root / "good" / "day2" / "2.png"]


def test_good_photographs_by_a_link_beside_their_folder_are_no_defects(make):
    root = make("pool/1.png", "bad/2.png")
    (root / "good").symlink_to("pool")
    category = open_category(root)
    assert [s.path.name for s in category.train] == ["1.png"]
    assert [s.defect for s in category.test] == ["bad"]
    assert [p.reason for p in category.passed_over] == ["used by way of a link to it"]


def test_a_test_folder_may_link_to_one_that_is_used_as_well(make):
    root = make("train/good/1.png", "test/bad/1.png")
    (root / "test" / "good").symlink_to(root / "train" / "good")
    category = open_category(root)
    assert len(category.test) == 2 and category.passed_over == []


def test_a_category_names_what_it_does_not_use(make):
    root = make(
        "train/good/1.png", "train/bad/2.png", "good/3.png", "extra/4.png", "test/good/5.png"
    )
    (root / "train" / "good" / "raw.dng").write_bytes(b"raw")
    category = open_category(root)
    assert {p.path.relative_to(root).as_posix(): p.reason for p in category.passed_over} == {
        "extra/4.png": "no place in the layout mvtec",
        "good/3.png": f"only {root / 'train' / 'good'} is learned from",
        "train/bad/2.png": f"only {root / 'train' / 'good'} is learned from",
        "train/good/raw.dng": UNREADABLE,
    }
    (note,) = category.notes
    assert note.startswith(f"{root}: 4 not used: ") and "(2): good/3.png, train/bad/2.png" in note


@pytest.mark.parametrize("count", [1, 5])
def test_the_count_gives_examples(make, count):
    root = make("good/0.png")
    for i in range(count):
        (root / f"{i}.txt").write_text("")
    shown = ", ".join(f"{i}.txt" for i in range(min(count, 3))) + (", ..." if count > 3 else "")
    assert open_category(root).notes == [f"{root}: {count} not used: no image ({count}): {shown}"]
