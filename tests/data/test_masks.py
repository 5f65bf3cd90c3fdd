from __future__ import annotations

import pytest

from fastalign.data import open_category
from fastalign.errors import InputError


def masks(root):
    return {
        sample.path.relative_to(root).as_posix(): sample.mask_path
        and sample.mask_path.relative_to(root).as_posix()
        for sample in open_category(root).test
    }


GOOD = "train/good/0.png"


@pytest.mark.parametrize("mask", ["x_mask.png", "x.png", "x_mask.bmp", "x.tif", "x_mask.PNG"])
@pytest.mark.parametrize("image", ["x.png", "x.jpg", "x.BMP"])
def test_names_match_whatever_the_endings(make, image, mask):
    root = make(GOOD, f"test/bad/{image}", f"ground_truth/bad/{mask}")
    assert masks(root) == {f"test/bad/{image}": f"ground_truth/bad/{mask}"}


def test_dots_in_names_and_folders_below(make):
    root = make(
        GOOD,
        "test/bad/cam.1/2024.05.01_7.png",
        "test/bad/cam.1/2024.05.01_8.png",
        "ground_truth/bad/cam.1/2024.05.01_7.png",
        "ground_truth/bad/cam.1/2024.05.01_8_mask.png",
    )
    assert list(masks(root).values()) == [
        "ground_truth/bad/cam.1/2024.05.01_7.png",
        "ground_truth/bad/cam.1/2024.05.01_8_mask.png",
    ]


def test_the_marked_name_goes_before_the_plain_one(make):
    root = make(GOOD, "test/bad/x.png", "ground_truth/bad/x.png", "ground_truth/bad/x_mask.png")
    assert masks(root) == {"test/bad/x.png": "ground_truth/bad/x_mask.png"}
    assert open_category(root).notes == [
        f"{root}: 1 not used: mask of no image (1): ground_truth/bad/x.png"
    ]


def test_masks_beside_their_images_are_no_images(make):
    root = make(GOOD, "test/bad/x.png", "test/bad/x_mask.png", "test/bad/lonely_mask.png")
    assert masks(root) == {
        "test/bad/x.png": "test/bad/x_mask.png",
        "test/bad/lonely_mask.png": None,
    }


def test_a_mask_of_a_defect_is_not_taken_for_another(make):
    root = make(GOOD, "test/a/0.png", "test/b/0.png", "ground_truth/a/0_mask.png")
    assert masks(root) == {"test/a/0.png": "ground_truth/a/0_mask.png", "test/b/0.png": None}


def test_two_masks_for_one_image(make):
    root = make(GOOD, "test/bad/x.png", "ground_truth/bad/x.png", "ground_truth/bad/x.bmp")
    with pytest.raises(InputError, match=r"x\.bmp and .*x\.png are both masks of the image x"):
        open_category(root)


def test_two_images_for_one_mask(make):
    root = make(GOOD, "test/bad/x.png", "test/bad/x.jpg", "ground_truth/bad/x_mask.png")
    with pytest.raises(InputError, match=r"x\.jpg and .*x\.png have the same name"):
        open_category(root)


def test_a_file_named_mask_only(make):
    root = make(GOOD, "test/bad/_mask.png")
    assert masks(root) == {"test/bad/_mask.png": None}
