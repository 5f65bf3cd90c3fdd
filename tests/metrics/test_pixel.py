from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, roc_auc_score
from torch.nn import functional as F

from fastalign.errors import ConfigError, InputError
from fastalign.metrics import PixelMetrics

FIGURES = ("pixel_auroc", "pixel_ap", "aupro_30", "aupro_05")


def neighbours(mask):
    """Connected regions of 8 neighbours by flood fill; the definition, in plain loops."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    regions = []
    while left:
        region, border = set(), [left.pop()]
        while border:
            y, x = border.pop()
            region.add((y, x))
            around = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= around
            border += around
        regions.append(region)
    return regions


def by_definition(maps, masks, limit):
    """AUPRO by a loop over all thresholds, regions and pixels."""
    thresholds = sorted({float(value) for scores in maps for value in scores.flat}, reverse=True)
    regions = [
        [float(scores[place]) for place in region]
        for scores, mask in zip(maps, masks, strict=True)
        for region in neighbours(mask)
    ]
    outside = [
        float(value) for scores, mask in zip(maps, masks, strict=True) for value in scores[~mask]
    ]
    points = [(0.0, 0.0)]
    for threshold in thresholds:
        alarms = sum(value >= threshold for value in outside) / len(outside)
        overlaps = [sum(v >= threshold for v in region) / len(region) for region in regions]
        points.append((alarms, sum(overlaps) / len(overlaps)))
    total = 0.0
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        if x0 >= limit:
            break
        end = min(x1, limit)
        y_end = y1 if x1 == x0 else y0 + (y1 - y0) * (end - x0) / (x1 - x0)
        total += (end - x0) * (y0 + y_end) / 2
    return total / limit


def measure(maps, masks, **options):
    metrics = PixelMetrics(**options)
    for scores, mask in zip(maps, masks, strict=True):
        metrics.update(scores, mask)
    return metrics.compute()


def example(seed, levels=None, images=4, size=(14, 17), density=0.15):
    """Noise with some signal, and masks of many small regions; ``levels`` makes ties."""
    rng = np.random.default_rng(seed)
    masks = [rng.random(size) < density * (index > 0) for index in range(images)]
    maps = [rng.normal(size=size) + 1.0 * mask for mask in masks]
    if levels is not None:
        maps = [np.floor(scores * levels / 4) for scores in maps]
    return [scores.astype(np.float32) for scores in maps], masks


CASES = [(0, None), (1, None), (2, 1), (3, 2), (4, 8), (5, 40)]


@pytest.mark.parametrize(("seed", "levels"), CASES)
def test_aupro_is_its_definition(seed, levels):
    maps, masks = example(seed, levels)
    figures = measure(maps, masks, limits=(0.3, 0.05, 0.011, 1.0))
    for name, limit in {"30": 0.3, "05": 0.05, "01": 0.011, "100": 1.0}.items():
        assert figures[f"aupro_{name}"] == pytest.approx(
            by_definition(maps, masks, limit), rel=1e-12
        )


@pytest.mark.parametrize(("seed", "levels"), CASES)
def test_auroc_and_ap_are_those_of_scikit_learn(seed, levels):
    maps, masks = example(seed, levels)
    truth, scores = np.stack(masks).ravel(), np.stack(maps).ravel()
    figures = measure(maps, masks)
    assert figures["pixel_auroc"] == pytest.approx(roc_auc_score(truth, scores), rel=1e-12)
    assert figures["pixel_ap"] == pytest.approx(average_precision_score(truth, scores), rel=1e-12)


@pytest.mark.parametrize(("seed", "levels"), CASES)
@pytest.mark.parametrize("limit", [0.3, 0.05])
def test_aupro_is_that_of_anomalib(seed, levels, limit):
    from anomalib.metrics.aupro import _AUPRO

    maps, masks = example(seed, levels, size=(40, 50))
    other = _AUPRO(fpr_limit=limit)
    for scores, mask in zip(maps, masks, strict=True):
        other.update(torch.from_numpy(scores)[None], torch.from_numpy(mask)[None].int())
    ours = measure(maps, masks)[f"aupro_{100 * limit:02.0f}"]
    # Anomalib adds up in float32.
    assert ours == pytest.approx(float(other.compute()), rel=2e-4)


@pytest.mark.parametrize(("levels", "limit"), [(None, 0.3), (3, 0.3), (None, 1.0)])
def test_the_drawn_curve_has_the_area_of_the_figure_and_few_points(levels, limit):
    maps, masks = example(6, levels, size=(90, 120))
    figures = measure(maps, masks, limits=(0.05, limit))
    x, y = figures.curves["pro"]
    assert (x[0], y[0], x[-1]) == (0, 0, limit)
    assert x.size <= 4 * 256 and (np.diff(x) >= 0).all() and (np.diff(y) >= 0).all()
    drawn = float(np.trapezoid(y, x)) / limit
    assert drawn == pytest.approx(figures[f"aupro_{100 * limit:02.0f}"], abs=1 / 256)


def test_regions_touch_at_corners():
    mask = np.zeros((6, 6), bool)
    mask[1, 1] = mask[2, 2] = True
    mask[4, 4] = True
    scores = np.zeros((6, 6), np.float32)
    scores[4, 4] = 1
    # Two regions: the pair at the corner, never found, and the single pixel, found first.
    assert measure([scores], [mask], limits=(1.0,))["aupro_100"] == pytest.approx(0.75)
    assert by_definition([scores], [mask], 1.0) == pytest.approx(0.75)


def test_every_region_counts_the_same_whatever_its_size():
    small, large = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    small[0, 0] = True
    large[:10] = True
    found_small = [small.astype(np.float32), -large.astype(np.float32)]
    assert measure(found_small, [small, large])["aupro_30"] == pytest.approx(0.5)


def test_regions_of_different_images_are_different_regions():
    mask = np.zeros((5, 5), bool)
    mask[2, 2] = True
    found = mask.astype(np.float32)
    figures = measure([found, found, -found, -found], [mask] * 4)
    assert figures["aupro_30"] == pytest.approx(0.5)


def test_a_step_of_ties_is_a_straight_line():
    mask = np.array([[True, False, False, False]])
    figures = measure([np.zeros((1, 4), np.float32)], [mask], limits=(1.0, 0.3))
    assert figures["aupro_100"] == pytest.approx(0.5)
    assert figures["aupro_30"] == pytest.approx(0.15)
    assert figures["pixel_auroc"] == pytest.approx(0.5)


@pytest.mark.parametrize("levels", [None, 3])
def test_a_perfect_map(levels):
    _, masks = example(7)
    figures = measure([mask.astype(np.float32) for mask in masks], masks)
    assert all(figures[name] == pytest.approx(1.0, abs=1e-12) for name in FIGURES)
    worst = measure([-mask.astype(np.float32) for mask in masks], masks)
    assert [worst[name] for name in ("pixel_auroc", "aupro_30", "aupro_05")] == [0.0, 0.0, 0.0]


scores_and_masks = st.integers(1, 3).flatmap(
    lambda images: st.tuples(
        hnp.arrays(np.int8, (images, 5, 6), elements=st.integers(-6, 6)),
        hnp.arrays(bool, (images, 5, 6)).filter(lambda mask: mask.any() and not mask.all()),
    )
)


@settings(max_examples=60, deadline=None)
@given(scores_and_masks)
def test_any_small_case_is_its_definition(case):
    maps, masks = case
    figures = measure(maps.astype(np.float32), masks)
    truth, scores = masks.ravel(), maps.ravel()
    assert figures["aupro_30"] == pytest.approx(by_definition(maps, masks, 0.3), rel=1e-9)
    assert figures["aupro_05"] == pytest.approx(by_definition(maps, masks, 0.05), rel=1e-9)
    assert figures["pixel_auroc"] == pytest.approx(roc_auc_score(truth, scores))
    assert figures["pixel_ap"] == pytest.approx(average_precision_score(truth, scores))
    assert all(0 <= figures[name] <= 1 + 1e-12 for name in FIGURES)


@settings(max_examples=60, deadline=None)
@given(scores_and_masks, st.sampled_from([np.exp, np.cbrt, lambda x: 1e-30 * x, lambda x: 1e6 + x]))
def test_only_the_order_of_scores_counts(case, transform):
    maps, masks = case
    changed = transform(maps.astype(np.float64)).astype(np.float32)
    assert measure(changed, masks) == measure(maps.astype(np.float32), masks)


@settings(max_examples=60, deadline=None)
@given(scores_and_masks, st.randoms(use_true_random=False))
def test_the_order_of_images_and_a_mirror_do_not_count(case, random):
    maps, masks = case[0].astype(np.float32), case[1]
    order = random.sample(range(len(maps)), len(maps))
    shuffled = measure(maps[order][:, ::-1], masks[order][:, ::-1])
    assert shuffled == pytest.approx(measure(maps, masks), rel=1e-12)


def test_minus_zero_is_zero():
    mask = np.array([[True, False]])
    for zero in (0.0, -0.0):
        figures = measure([np.array([[0.0, zero]], np.float32)], [mask])
        assert figures["pixel_auroc"] == pytest.approx(0.5)


def test_scores_over_the_whole_range_of_float32():
    tiny, huge = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max
    values = np.array([[-huge, -1, -tiny, 0], [tiny, 1, 1e30, huge]], np.float32)
    mask = np.array([[True, False, True, False], [False, True, False, True]])
    figures = measure([values], [mask])
    assert figures["pixel_auroc"] == pytest.approx(roc_auc_score(mask.ravel(), values.ravel()))


def test_tensors_of_any_kind_of_float():
    maps, masks = example(0, levels=8)
    expected = measure(maps, masks)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        tensors = [torch.from_numpy(scores).to(dtype) for scores in maps]
        assert measure(tensors, [torch.from_numpy(mask) for mask in masks]) == expected
    assert measure([scores.T.copy().T for scores in maps], masks) == expected


def test_an_evaluation_size_of_its_own():
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(8, 9)).astype(np.float32) for _ in range(2)]
    masks = [rng.random((31, 23)) < 0.3, rng.random((16, 20)) < 0.3]
    size = (12, 11)
    resized = [
        F.interpolate(torch.from_numpy(m)[None, None], size, mode="bilinear")[0, 0] for m in maps
    ]
    at_size = [
        F.interpolate(torch.from_numpy(m)[None, None].float(), size, mode="nearest-exact")[0, 0] > 0
        for m in masks
    ]
    assert measure(maps, masks, size=size) == measure(resized, at_size)
    with pytest.raises(ValueError, match=r"the map is \[8, 9\], the mask \[31, 23\]; resample"):
        measure(maps, masks)


def test_figures_may_be_asked_for_on_the_way():
    maps, masks = example(0)
    metrics = PixelMetrics()
    for scores, mask in zip(maps, masks, strict=True):
        metrics.update(scores, mask)
        metrics.compute()
    assert metrics.compute() == measure(maps, masks)
    assert metrics.images == 4


@pytest.mark.parametrize(("value", "missing"), [(False, "anomalous"), (True, "good")])
def test_without_good_or_without_anomalous_pixels(value, missing):
    figures = measure([np.zeros((3, 3), np.float32)], [np.full((3, 3), value)])
    assert figures == dict.fromkeys(FIGURES)
    assert figures.reasons == dict.fromkeys(FIGURES, f"there are no {missing} pixels")


def test_without_any_image():
    assert PixelMetrics().compute() == dict.fromkeys(FIGURES)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers(bad):
    scores = np.zeros((3, 3), np.float32)
    scores[1, 2] = bad
    metrics = PixelMetrics()
    metrics.update(np.zeros((3, 3), np.float32), np.eye(3, dtype=bool))
    before = metrics.compute()
    with pytest.raises(InputError, match=r"part/7\.png: 1 of 9 values .* NaN or infinite"):
        metrics.update(scores, np.zeros((3, 3), bool), "part/7.png")
    with pytest.raises(InputError, match="^image 1: "):
        metrics.update(scores, np.zeros((3, 3), bool))
    with pytest.raises(InputError, match="NaN or infinite"):
        metrics.update(np.full((2, 2), 1e300), np.zeros((2, 2), bool))
    assert metrics.compute() == before and metrics.images == 1


@pytest.mark.parametrize(
    ("scores", "mask", "message"),
    [
        (np.zeros((1, 3, 3), np.float32), np.zeros((3, 3), bool), r"map \[1, 3, 3\].*as \[H, W\]"),
        (np.zeros((0, 3), np.float32), np.zeros((0, 3), bool), r"as \[H, W\]"),
        (np.zeros((3, 3), np.float32), np.zeros((3, 0), bool), r"mask \[3, 0\].*as \[H, W\]"),
        (np.zeros((3, 3), np.float32), np.zeros((3, 3, 1), bool), r"mask \[3, 3, 1\].*as \[H, W\]"),
        (np.zeros((3, 3), np.float32), np.zeros((3, 3), np.uint8), "mask of uint8.*a bool mask"),
        (np.zeros((3, 3), np.int64), np.zeros((3, 3), bool), "map of int64.*floating-point"),
    ],
)
def test_other_shapes_and_types_are_refused(scores, mask, message):
    with pytest.raises(ValueError, match=message):
        PixelMetrics().update(scores, mask)


@pytest.mark.parametrize(
    "options",
    [{"size": (0, 4)}, {"size": (4,)}, {"limits": ()}, {"limits": (0.0,)}, {"limits": (2,)}],
)
def test_options_are_checked(options):
    with pytest.raises(ConfigError, match="evaluation size|false-positive limit"):
        PixelMetrics(**options)


def test_good_pixels_take_about_a_byte():
    rng = np.random.default_rng(0)
    metrics = PixelMetrics()
    for _ in range(3):
        coarse = torch.from_numpy(rng.gamma(4, 2, (1, 1, 16, 16)).astype(np.float32))
        scores = F.interpolate(coarse, (512, 512), mode="bilinear")[0, 0]
        metrics.update(scores, np.zeros((512, 512), bool))
    assert metrics.nbytes < 2 * 3 * 512 * 512
