from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from fastalign.data import load_mask, resize_mask
from fastalign.errors import InputError


@pytest.fixture
def truth():
    mask = np.zeros((6, 9), bool)
    mask[1:4, 2:7] = True
    return mask


def save(tmp_path, image, name="x_mask.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("value", [1, 3, 255])
def test_any_value_but_black_counts(tmp_path, truth, value):
    path = save(tmp_path, Image.fromarray(truth.astype(np.uint8) * np.uint8(value)))
    loaded = load_mask(path)
    assert loaded.dtype == bool and np.array_equal(loaded, truth)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "LA", "P", "I;16", "F", "CMYK"])
def test_every_kind_of_file(tmp_path, truth, mode):
    grey = Image.fromarray(truth.astype(np.uint8) * 255)
    suffix = ".tif" if mode in ("F", "CMYK") else ".png"
    if mode == "I;16":
        image = Image.fromarray(truth.astype(np.uint16) * 700)
    elif mode == "1":
        image = grey.convert("1", dither=Image.Dither.NONE)
    else:
        image = grey.convert(mode)
    assert np.array_equal(load_mask(save(tmp_path, image, f"m{suffix}")), truth)


def test_the_colour_of_a_palette_counts_not_its_number(tmp_path, truth):
    image = Image.fromarray(np.where(truth, 0, 1).astype(np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 0, 0])
    assert np.array_equal(load_mask(save(tmp_path, image)), truth)


def test_transparent_pixels_do_not_count(tmp_path, truth):
    pixels = np.full((*truth.shape, 4), 255, np.uint8)
    pixels[..., 3] = truth * 255
    assert np.array_equal(load_mask(save(tmp_path, Image.fromarray(pixels))), truth)


def test_lossy_files_count_from_half_brightness(tmp_path):
    truth = np.zeros((32, 32), bool)
    truth[8:20, 8:24] = True
    noisy = Image.fromarray(np.where(truth, 255, 0).astype(np.uint8)).convert("RGB")
    path = save(tmp_path, noisy, "x.jpg", quality=90)
    assert (np.asarray(Image.open(path)) != 0).any(axis=2).sum() > truth.sum()
    assert np.array_equal(load_mask(path), truth)


def test_another_size_than_the_image(tmp_path, truth):
    path = save(tmp_path, Image.fromarray(truth))
    assert load_mask(path, (6, 9)).shape == (6, 9)
    with pytest.raises(InputError, match=r"x_mask\.png: the mask is 9 x 6 .*its image is 8 x 6;"):
        load_mask(path, (6, 8))
    with pytest.raises(InputError, match=r"x_mask\.png.*its image a/photo\.jpg is 18 x 12"):
        load_mask(path, (12, 18), image_path="a/photo.jpg")
    with pytest.raises(InputError, match=r"sides are swapped.*EXIF"):
        load_mask(path, (9, 6))


def test_the_mask_itself_may_be_turned(tmp_path, truth):
    exif = Image.Exif()
    exif[0x0112] = 8
    turned = Image.fromarray(np.rot90(truth, -1).astype(np.uint8) * 255)
    assert np.array_equal(load_mask(save(tmp_path, turned, exif=exif), (6, 9)), truth)


def test_resampled_by_nearest(tmp_path, truth):
    path = save(tmp_path, Image.fromarray(truth))
    doubled = load_mask(path, (6, 9), output_size=(12, 18))
    assert np.array_equal(doubled, truth.repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n1234"])
def test_a_bad_file_is_named(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.png: .*--skip-bad"):
        load_mask(tmp_path / "x.png")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"x\.png: there is no such mask"):
        load_mask(tmp_path / "x.png")


sides = st.integers(1, 40)


@settings(max_examples=60, deadline=None)
@given(old=st.tuples(sides, sides), new=st.tuples(sides, sides), seed=st.integers(0, 1000))
def test_nearest_is_that_of_torch(old, new, seed):
    mask = np.random.default_rng(seed).random(old) < 0.5
    tensor = torch.from_numpy(mask)[None, None].to(torch.float64)
    expected = F.interpolate(tensor, new, mode="nearest-exact")[0, 0].numpy() > 0
    resized = resize_mask(mask, new)
    # A centre that falls exactly between two pixels is torch's rounding of a product.
    clear = [(2 * np.arange(n) + 1) * o % (2 * n) != 0 for n, o in zip(new, old, strict=True)]
    pixels = np.ix_(*clear)
    assert resized.dtype == bool and np.array_equal(resized[pixels], expected[pixels])


def test_a_centre_between_two_pixels_takes_the_later_one():
    assert resize_mask(np.array([[False, True]]), (1, 1)).tolist() == [[True]]
    # Row 18 of 37 has its centre at 3.0 of 6 rows.
    assert resize_mask(np.arange(6)[:, None] == 3, (37, 1))[18, 0]
