import math

import numpy as np
import pytest

from fastalign.report.heat import (
    THRESHOLD_POSITION,
    colour_table,
    grow,
    heat_overlay,
    heat_rgba,
    scale_limits,
    shrink,
)


def test_lightness_rises_along_the_scale():
    table = colour_table().astype(float) / 255
    linear = np.where(table <= 0.04045, table / 12.92, ((table + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) >= -1e-9).all()
    assert luminance[-1] - luminance[0] > 0.7


def test_the_threshold_lies_in_the_middle_of_the_scale():
    low, high = scale_limits(10.0, np.zeros((2, 2), np.float32))
    assert (low, high) == (6.0, 14.0)
    assert (10.0 - low) / (high - low) == pytest.approx(THRESHOLD_POSITION) == pytest.approx(1 / 2)


def test_a_score_a_little_above_the_threshold_stands_out():
    threshold, image = 10.0, np.full((1, 4, 3), 110, np.uint8)
    scores = np.array([[5.0, 8.0, 12.0, 14.0]], np.float32)
    low, high = scale_limits(threshold, scores)
    alpha = heat_rgba(scores, low, high)[0, :, 3] / 255
    assert alpha[0] == 0 and alpha[1] < 0.25 and alpha[2] > 0.65
    overlay = heat_overlay(image, scores, math.nan).astype(int)
    assert abs(overlay[0, 3] - 110).max() > 100


@pytest.mark.parametrize("threshold", [math.nan, 0.0, -1.0, math.inf])
def test_without_a_usable_threshold_the_map_sets_the_limits(threshold):
    scores = np.array([[1.0, np.nan], [4.0, np.inf]], np.float32)
    assert scale_limits(threshold, scores) == (1.0, 4.0)
    assert scale_limits(threshold, np.full((2, 2), np.nan, np.float32)) == (0.0, 1.0)
    low, high = scale_limits(threshold, np.full((2, 2), 5.0, np.float32))
    assert high > low


def test_opacity_grows_with_the_score_and_what_was_not_looked_at_is_striped():
    scores = np.array([[0.0, 3.0, 6.0, 12.0, 99.0, np.nan, np.inf]], np.float32)
    alpha = heat_rgba(scores, 3.0, 12.0)[0, :, 3].astype(int)
    assert alpha[0] == alpha[1] == 0
    assert 0 < alpha[2] < alpha[3] == alpha[4] == alpha[6]
    unseen = heat_rgba(np.full((16, 16), np.nan, np.float32), 3.0, 12.0)
    assert len(np.unique(unseen[..., 3])) == 2 and unseen[..., 3].min() > 0
    assert (unseen[..., 0] == unseen[..., 2]).all()
    # The stripes of a picture that is made in bands go on.
    assert (heat_rgba(np.full((8, 16), np.nan, np.float32), 3.0, 12.0, top=8) == unseen[8:]).all()


def test_overlay_leaves_the_image_alone_where_the_score_is_low():
    image = np.full((9, 11, 3), 90, np.uint8)
    scores = np.zeros((9, 11), np.float32)
    scores[6:, 7:] = 30
    overlay = heat_overlay(image, scores, 10.0)
    assert overlay.shape == image.shape and overlay.dtype == np.uint8
    assert (overlay[:5] == 90).all() and (overlay[:, :6] == 90).all()
    assert (overlay[6:, 7:] != 90).any(axis=2).all()


def test_overlay_outlines_what_exceeds_the_threshold():
    image = np.full((40, 50, 3), 90, np.uint8)
    scores = np.zeros((40, 50), np.float32)
    scores[10:20, 15:30] = 11
    overlay = heat_overlay(image, scores, 10.0)
    outline = (overlay == (255, 149, 0)).all(axis=2)
    expected = np.zeros((40, 50), bool)
    expected[10:20, 15:30] = True
    expected[11:19, 16:29] = False
    assert (outline == expected).all()
    assert (overlay[9, 14:31] < 90).all()
    without = heat_overlay(image, scores, math.nan)
    assert not (without == (255, 149, 0)).all(axis=2).any()


@pytest.mark.parametrize("seed", range(3))
def test_an_overlay_is_the_heat_laid_over_the_image(seed):
    """Pixels below the scale, which are passed over, included."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(8, 4, (300, 41)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.1] = np.nan
    scores[5, 6:8] = np.inf, -np.inf
    image = rng.integers(0, 256, (300, 41, 3), dtype=np.uint8)
    threshold = 10.0 if seed else math.nan
    rgba = heat_rgba(scores, *scale_limits(threshold, scores))
    alpha = rgba[..., 3:].astype(np.float32) / 255
    expected = (image * (1 - alpha) + rgba[..., :3] * alpha).round().astype(np.uint8)
    with np.errstate(invalid="ignore"):
        found = scores > threshold
    found &= np.isfinite(scores)
    halo = grow(found, 1) & ~found
    expected[halo] = (expected[halo] * 0.35).astype(np.uint8)
    expected[found & ~shrink(found, 1)] = (255, 149, 0)
    assert (heat_overlay(image, scores, threshold) == expected).all()


@pytest.mark.parametrize("by", [1, 2, 3, 6])
def test_masks_grow_and_shrink_by_a_square(by):
    mask = np.random.default_rng(by).random((19, 12)) > 0.9
    padded = np.pad(mask, by)
    near = [padded[y : y + 19, x : x + 12] for y in range(2 * by + 1) for x in range(2 * by + 1)]
    assert (grow(mask, by) == np.logical_or.reduce(near)).all()
    assert (shrink(mask, by) == ~grow(~mask, by)).all()
    assert shrink(np.ones((3, 4), bool), by).all()
