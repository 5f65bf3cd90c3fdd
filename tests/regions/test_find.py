import json

import numpy as np
import pytest
import torch
from scipy import ndimage

from fastalign.ops import affine, warp_affine
from fastalign.regions import find_regions
from fastalign.regions.coco import annotation, run_lengths


def rough_map(seed=0, size=(48, 60)):
    """A smooth random map; about half of it lies above 0, in regions with and without holes."""
    noise = np.random.default_rng(seed).normal(size=size)
    return (20 * ndimage.gaussian_filter(noise, 2)).astype(np.float32)


def painted(*boxes, size=(20, 30)):
    scores = np.zeros(size, np.float32)
    for rows, columns, value in boxes:
        scores[rows, columns] = value
    return scores


def polygon_area(ring):
    x, y = np.array(ring).T
    return 0.5 * float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


def test_a_region_in_pixels_of_the_photograph():
    scores = painted((slice(4, 8), slice(10, 16), 2.0))
    scores[6, 11] = 5
    (region,) = find_regions(scores, 1.0, (200, 900))
    place = region.photograph
    # A pixel of the map is 10 high and 30 wide in the photograph.
    assert region.score == 5 and region.part is None and region.share is None
    assert place.box == (300, 40, 180, 40) and place.area == 180 * 40
    assert place.centroid == (390, 60) and place.peak == (345, 65)
    assert place.contour == [[(300, 40), (480, 40), (480, 80), (300, 80)]]


def test_highest_peak_first_and_equal_ones_in_the_order_of_reading():
    scores = painted(
        (slice(1, 3), slice(20, 22), 2), (slice(1, 3), slice(2, 4), 2), (slice(9, 11), 5, 7)
    )
    found = find_regions(scores, 1, scores.shape)
    assert [(r.score, r.photograph.box[0]) for r in found] == [(7, 5), (2, 2), (2, 20)]


def test_corners_connect_and_edges_too():
    scores = painted((slice(2, 4), slice(2, 4), 2), (slice(4, 6), slice(4, 6), 3), (9, 9, 2))
    both, alone = find_regions(scores, 1, scores.shape)
    assert both.photograph.area == 8 and alone.photograph.area == 1
    assert [polygon_area(ring) for ring in both.photograph.contour] == [4, 4]


@pytest.mark.parametrize("least, count", [(0, 2), (4, 2), (4.5, 1), (64, 1), (65, 0)])
def test_regions_below_the_least_area_are_left_out(least, count):
    scores = painted((slice(0, 4), slice(0, 4), 2), (19, 29, 2))
    # Pixels of the photograph, which has four to one of the map.
    assert len(find_regions(scores, 1, (40, 60), least_area=least)) == count


def test_what_is_not_above_or_not_known_is_in_no_region():
    scores = painted((slice(0, 5), slice(0, 5), 1.0))
    scores[10:12] = np.nan
    for threshold in (1.0, None, float("nan")):
        assert find_regions(scores, threshold, scores.shape) == ()
    (region,) = find_regions(scores, 0.5, scores.shape)
    assert region.photograph.area == 25


@pytest.mark.parametrize("seed", range(3))
def test_regions_are_those_of_scipy_and_take_all_that_is_above(seed):
    scores = rough_map(seed)
    labels, count = ndimage.label(scores > 0.4, structure=np.ones((3, 3)))
    found = find_regions(scores, 0.4, scores.shape)
    index = range(1, count + 1)
    by = sorted(index, key=lambda i: -scores[labels == i].max())
    assert [r.score for r in found] == [scores[labels == i].max() for i in by]
    assert [r.photograph.area for r in found] == [int((labels == i).sum()) for i in by]
    for region, i in zip(found, by, strict=True):
        y, x = ndimage.center_of_mass(labels == i)
        assert region.photograph.centroid == pytest.approx((x + 0.5, y + 0.5))
        enclosed = sum(polygon_area(ring) for ring in region.photograph.contour)
        assert enclosed == pytest.approx(region.photograph.area)
        assert polygon_area(region.photograph.contour[0]) > 0


def test_in_the_parts_frame_the_same_place_has_the_same_numbers():
    """A defect drawn in the part's frame, on a part that lies turned, moved and smaller."""
    drawn = torch.zeros(1, 1, 64, 96)
    drawn[..., 20:30, 40:60] = 1
    (inside,) = find_regions(drawn[0, 0].numpy(), 0.5, (640, 960), theta=np.eye(2, 3))
    assert inside.part.box == pytest.approx((40 / 96, 20 / 64, 20 / 96, 10 / 64))
    for index in range(3):
        turn = torch.tensor(0.1 * index)
        theta = torch.stack(
            [
                torch.stack([0.8 * turn.cos(), -turn.sin(), torch.tensor(0.1)]),
                torch.stack([turn.sin(), 0.8 * turn.cos(), torch.tensor(-0.2)]),
            ]
        )[None]
        seen = warp_affine(drawn, affine.invert(theta))[0, 0].numpy()
        (region,) = find_regions(seen, 0.5, (640, 960), theta=theta[0].numpy(), part_area=0.5)
        assert region.part.centroid == pytest.approx(inside.part.centroid, abs=0.01)
        assert region.part.area == pytest.approx(inside.part.area, rel=0.06)
        assert region.share == pytest.approx(2 * region.part.area)
        assert region.part.peak != region.photograph.peak


def test_a_pose_that_is_not_known_or_leads_nowhere_leaves_the_photographs_frame():
    scores = painted((slice(0, 5), slice(0, 5), 1.0))
    for theta in (np.full((2, 3), np.nan), np.zeros((2, 3))):
        (region,) = find_regions(scores, 0.5, scores.shape, theta=theta)
        assert region.part is None and region.share is None and region.photograph.area == 25


def test_json_is_plain_and_short():
    scores = painted((slice(4, 8), slice(10, 16), 2.0))
    (region,) = find_regions(scores, 1, (201, 907), theta=np.eye(2, 3), part_area=0.7)
    plain = region.to_json()
    assert json.loads(json.dumps(plain)) == plain
    assert set(plain) == {"score", "share_of_part", "photograph", "part"}
    assert set(plain["part"]) == {"box", "area", "centroid", "peak", "contour"}
    assert plain["photograph"]["box"] == [302.33, 40.2, 181.4, 40.2]
    assert plain["share_of_part"] == pytest.approx(24 / 600 / 0.7, rel=1e-3)


# COCO -------------------------------------------------------------------------------------------


def decoded(counts, size):
    """Run lengths down the columns as a mask."""
    values = np.repeat(np.arange(len(counts)) % 2, counts)
    return values.reshape(size[1], size[0]).T.astype(bool)


@pytest.mark.parametrize("size", [(48, 60), (480, 900), (101, 77), (30, 40)])
def test_run_lengths_are_the_pixels_whose_centres_lie_inside(size):
    scores = rough_map()
    found = find_regions(scores, 0.2, size)
    pairs = zip(size, scores.shape, strict=True)
    rows, columns = ((2 * np.arange(n) + 1) * m // (2 * n) for n, m in pairs)
    whole = np.zeros(size, bool)
    for region in found:
        mask = decoded(run_lengths(region.photograph.contour, size), size)
        assert not (mask & whole).any()
        whole |= mask
    assert (whole == (scores > 0.2)[np.ix_(rows, columns)]).all()


def test_polygons_where_there_is_no_hole_and_run_lengths_where_there_is_one():
    scores = painted((slice(2, 12), slice(2, 12), 2), (slice(5, 8), slice(5, 8), 0), (15, 20, 2))
    ring, dot = find_regions(scores, 1, (20, 30))
    holed = annotation(ring.to_json(), 1, 4, (20, 30))
    assert decoded(holed["segmentation"]["counts"], (20, 30)).sum() == holed["area"] == 91
    plain = annotation(dot.to_json(), 2, 4, (20, 30))
    assert plain["segmentation"] == [[20, 15, 21, 15, 21, 16, 20, 16]]
    assert plain["bbox"] == [20, 15, 1, 1] and plain["image_id"] == 4 and plain["iscrowd"] == 0


def test_cocos_own_code_reads_both():
    mask = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    scores, size = rough_map(), (96, 120)
    scores[:12, :12] = 0
    scores[2:10, 2:10] = 9
    scores[5, 5] = 0
    found = [annotation(r.to_json(), 1, 1, size) for r in find_regions(scores, 0.5, size)]
    kinds = {type(item["segmentation"]) for item in found}
    assert kinds == {list, dict}
    for item in found:
        runs = mask.frPyObjects(item["segmentation"], *size)
        runs = mask.merge(runs) if isinstance(runs, list) else runs
        assert int(mask.area(runs)) == item["area"]
        assert mask.toBbox(runs).tolist() == item["bbox"]
