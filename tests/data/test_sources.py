from __future__ import annotations

import re

import pytest

from fastalign.data import find_photographs, open_category
from fastalign.data.listing import NO_IMAGE, UNREADABLE, WRITTEN
from fastalign.errors import InputError


def found(source, root, **options):
    """Images by their names below the root that was found, and reasons by names below ``root``."""
    photographs = find_photographs(source, **options)
    return (
        [path.relative_to(photographs.root).as_posix() for path in photographs.files],
        {p.path.relative_to(root).as_posix(): p.reason for p in photographs.passed_over},
    )


def test_a_folder_a_file_a_pattern_and_several(tree):
    root = tree(["x/1.png", "x/y/2.jpg", "x/y/3.png", "z/4.png"])
    (root / "x" / "notes.txt").write_text("no image")
    (root / "x" / "5.jxl").write_bytes(b"")
    reasons = {"x/notes.txt": NO_IMAGE, "x/5.jxl": UNREADABLE}
    assert found(root / "x", root) == (["1.png", "y/2.jpg", "y/3.png"], reasons)
    assert found(root / "x/y/2.jpg", root) == (["2.jpg"], {})
    assert found(f"{root}/x/**/*.png", root) == (["1.png", "y/3.png"], {})
    assert found(f"{root}/x/*", root) == (["1.png", "y/2.jpg", "y/3.png"], reasons)
    shell = sorted((root / "x").iterdir())
    assert found(shell, root) == (["1.png", "y/2.jpg", "y/3.png"], reasons)
    several = [root / "z", root / "x/y/2.jpg", root / "z/4.png"]
    assert found(several, root) == (["x/y/2.jpg", "z/4.png"], {})


def test_one_file_that_is_named_alone_is_meant_whatever_its_name(tree):
    root = tree(["1.png"])
    (root / "scan").write_bytes(b"anything")
    assert found(root / "scan", root) == (["scan"], {})


def test_a_mask_that_is_named_alone_is_meant(tree):
    root = tree(["1.png"], marked=["masks/1.png"])
    assert found(root / "masks/1.png", root) == (["1.png"], {})
    with pytest.raises(InputError, match="1 of 2 files looks like masks"):
        find_photographs(root)


@pytest.mark.parametrize("name", ["a[1].png", "run[2024-1]/1.png", "what?/1.png", "[x]/[y]/1.png"])
def test_brackets_in_names_are_no_pattern(tree, name):
    root = tree([name, "run2/2.png", "a1.png"])
    assert find_photographs(str(root / name)).files == [root / name]
    pattern = str((root / name).with_name("*.png" if "/" in name else "a[[]*.png"))
    assert find_photographs(pattern).files == [root / name]


def test_a_pattern_that_fits_nothing_says_what_is_there(tree):
    root = tree(["x/1.JPG", "x/2.JPG", "x/y/3.png"])
    message = f"{root}/x/*.jpg: the pattern fits no file; {root}/x and below hold 2 .JPG, 1 .png"
    with pytest.raises(InputError, match=re.escape(message)):
        find_photographs(f"{root}/x/*.jpg")


def test_nothing_there(tree):
    root = tree(["1.png"])
    (root / "empty").mkdir()
    (root / "texts").mkdir()
    (root / "texts" / "1.txt").write_text("")
    for source, message in (
        (root / "empty", "no image found; files with these endings"),
        (root / "nowhere", "nowhere: no such file or folder"),
        (root / "texts", r"no image found \(.*no image \(1\): 1\.txt"),
        ([root / "1.png", root / "nowhere"], "nowhere: no such file or folder"),
        ([], "no path given"),
        ("", "no path given, or an empty one"),
    ):
        with pytest.raises(InputError, match=message):
            find_photographs(source)


def test_what_was_written_into_the_output_folder_is_no_photograph(tree):
    """Also where the photographs lie in that folder themselves."""
    written = ["overlays/1.png", "maps/sub/1.png"]
    root = tree(["1.png", "sub/2.png", "overlaid/3.png", *written])
    assert found(root, root, outputs=root) == (
        ["1.png", "overlaid/3.png", "sub/2.png"],
        dict.fromkeys(written, WRITTEN),
    )
    assert len(find_photographs(root, outputs=root / "elsewhere").files) == 5
    (root / "predictions.json").write_text("{}")
    names, reasons = found(root, root, outputs=root / "elsewhere")
    assert names == ["1.png", "overlaid/3.png", "sub/2.png"]
    assert {name for name, reason in reasons.items() if reason == WRITTEN} == {"maps", "overlays"}


def test_a_category_does_not_learn_what_a_model_painted(tree):
    root = tree(["good/1.png", "dent/2.png", "dent/scored/overlays/2.png"])
    (root / "dent/scored/predictions.json").write_text("{}")
    assert [s.path.name for s in open_category(root).test] == ["2.png"]
