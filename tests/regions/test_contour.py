import re

import numpy as np
import pytest
from scipy import ndimage

from fastalign.regions.contour import outline


def loops(path):
    """Corner lists of every closed loop."""
    assert re.fullmatch(r"(M[^MZ]+Z)*", path)
    return [
        [tuple(map(float, point.split())) for point in loop.split("L")]
        for loop in re.findall(r"M([^Z]+)Z", path)
    ]


def signed_area(points):
    x, y = np.array(points).T
    return 0.5 * float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


def test_no_mask_no_path():
    assert outline(np.zeros((5, 7), bool)) == ""
    assert outline(np.zeros((0, 0), bool)) == ""


def test_one_pixel_is_a_diamond_around_its_centre():
    mask = np.zeros((4, 6), bool)
    mask[1, 4] = True
    (points,) = loops(outline(mask))
    assert set(points) == {(4.5, 1.0), (5.0, 1.5), (4.5, 2.0), (4.0, 1.5)}


def test_a_full_mask_runs_along_the_border():
    (points,) = loops(outline(np.ones((3, 5), bool)))
    assert min(x for x, _ in points) == 0 and max(x for x, _ in points) == 5
    assert min(y for _, y in points) == 0 and max(y for _, y in points) == 3


def test_holes_turn_the_other_way():
    mask = np.ones((9, 9), bool)
    mask[3:6, 3:6] = False
    outer, hole = loops(outline(mask))
    assert signed_area(outer) > 0 > signed_area(hole)


def test_pixels_that_touch_at_a_corner_stay_apart():
    assert len(loops(outline(np.eye(3, dtype=bool)))) == 3


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_every_border_edge_is_walked_once(density):
    """The length of all outlines equals the number of pixel edges between inside and outside."""
    mask = np.random.default_rng(3).random((23, 31)) < density
    padded = np.pad(mask, 1)
    edges = int((padded[1:] ^ padded[:-1]).sum() + (padded[:, 1:] ^ padded[:, :-1]).sum())
    total = 0.0
    for points in loops(outline(mask)):
        x, y = np.array(points).T
        dx, dy = np.abs(np.roll(x, -1) - x), np.abs(np.roll(y, -1) - y)
        # A straight step covers one edge per unit, a cut corner half an edge on either side.
        total += float(np.where((dx > 0) & (dy > 0), dx + dy, np.maximum(dx, dy)).sum())
    assert total == pytest.approx(edges)


@pytest.mark.parametrize("density", [0.3, 0.5, 0.7])
def test_one_outline_per_region_and_one_per_hole(density):
    """Regions are connected by edges; the outside, and so a hole, also by corners."""
    mask = np.random.default_rng(5).random((30, 40)) < density
    areas = [signed_area(points) for points in loops(outline(mask))]
    regions = ndimage.label(mask)[1]
    outside = ndimage.label(~np.pad(mask, 1), structure=np.ones((3, 3)))[1]
    assert sum(area > 0 for area in areas) == regions
    assert sum(area < 0 for area in areas) == outside - 1
