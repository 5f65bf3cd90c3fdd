"""Regions of interest: what is judged follows the part, by thresholds of its own, and nothing else
has a part in it."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fastalign import FYD
from fastalign.errors import ConfigError, InputError
from fastalign.models.interest import Interest
from fastalign.models.maps import AnomalyMaps
from fastalign.models.normal import NormalDistances
from fastalign.models.pose import Located
from fastalign.ops import affine, warp_affine
from fastalign.roi import RegionsOfInterest

SIZE = 64
# Of few features on fine maps: in so small an image what others see lies close together.
QUICK = {
    "image_size": (SIZE, SIZE),
    "align": "ica",
    "family": "translation",
    "strides": (4, 8, 16),
    "reduction": "draw",
    "channels": 12,
    "prior": 0.0,
}


# Maps alone ----------------------------------------------------------------------------------


def halves(size: int = 32) -> torch.Tensor:
    """Left and right half as two regions, but the upper quarter."""
    labels = torch.zeros(size, size, dtype=torch.uint8)
    labels[size // 4 :, : size // 2], labels[size // 4 :, size // 2 :] = 1, 2
    return labels


@pytest.fixture
def maps() -> AnomalyMaps:
    return AnomalyMaps((32, 32), (8, 8), sigma=2.0).interest(halves())


def test_a_region_depends_on_nothing_outside_of_it(maps):
    distance = torch.rand(1, 8, 8)
    plain = maps.judged(distance)
    assert plain.map[0, :8].isnan().all() and plain.map[0, 8:].isfinite().all()
    louder = distance.clone()
    louder[:, :2], louder[:, 2:, 4:] = 1e6, 1e3
    found = maps.judged(louder)
    assert torch.equal(found.map[0, 8:, :16], plain.map[0, 8:, :16])
    assert found.regions[0, 0] == plain.regions[0, 0] and found.regions[0, 1] > 900
    assert torch.equal(found.score, found.regions.amax(1))


def test_one_region_of_everything_changes_nothing():
    distance, plain = torch.rand(2, 8, 8), AnomalyMaps((32, 32), (8, 8), sigma=2.0)
    whole = copy.deepcopy(plain).interest(torch.ones(32, 32, dtype=torch.uint8))
    for theta in (None, affine.from_parameters(torch.rand(2, 2) / 4, "translation")):
        for one, other in zip(plain(distance, theta), whole(distance, theta), strict=True):
            seen = one.isfinite() & other.isfinite()
            # At the rim of what is seen a place is in it by its nearest label.
            assert seen.float().mean() > 0.9 * one.isfinite().float().mean()
            torch.testing.assert_close(one[seen], other[seen], rtol=1e-5, atol=1e-6)


def test_values_of_a_region_are_multiplied_with_its_gain():
    labels, distance = halves(), torch.rand(1, 8, 8)
    plain = AnomalyMaps((32, 32), (8, 8)).interest(labels).judged(distance)
    gained = AnomalyMaps((32, 32), (8, 8)).interest(labels, torch.tensor([1.0, 4.0]))
    found = gained.judged(distance)
    torch.testing.assert_close(found.regions, plain.regions * torch.tensor([1.0, 4.0]))
    torch.testing.assert_close(found.map[0, 8:, 16:], 4 * plain.map[0, 8:, 16:])
    assert torch.equal(found.map[0, 8:, :16], plain.map[0, 8:, :16])


def test_regions_follow_the_part_and_one_that_leaves_the_image_makes_it_unsure(maps):
    distance = torch.zeros(2, 8, 8)
    distance[:, 4, 1] = 1.0
    # Image coordinates are those of the part and a half of the width: the left half comes into the
    # right one, and the right one is outside.
    theta = affine.from_parameters(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), "translation")
    found = maps.judged(distance, theta)
    assert found.regions[0].isfinite().all() and found.score[0].isfinite()
    assert found.regions[1, 0] == pytest.approx(float(found.regions[0, 0]), rel=5e-3)
    assert found.regions[1, 1].isnan() and found.score[1].isnan()
    assert found.map[1, 8:, 16:].isfinite().any() and found.map[1, :, :16].isnan().all()
    moved = found.map[1, 8:, 16:]
    torch.testing.assert_close(moved[:, 6:14], found.map[0, 8:, 6:14], rtol=5e-3, atol=1e-3)
    coverage = maps.coverage(maps.valid(theta), None, distance)
    assert coverage.tolist() == [1.0, 0.0]


def test_a_line_thinner_than_the_smoothing_is_judged():
    labels = torch.zeros(64, 64, dtype=torch.uint8)
    labels[:, 30] = 1
    # Of what is smoothed so widely a line has less than a twentieth.
    maps = AnomalyMaps((64, 64), (16, 16), sigma=12.0).interest(labels)
    distance = torch.rand(1, 16, 16)
    found = maps.judged(distance)
    assert torch.equal(found.map[0].isfinite(), labels == 1)
    assert float(distance[0, :, 7].min()) < float(found.score) <= float(distance[0, :, 7].max())


@pytest.mark.parametrize("aligned", [False, True])
def test_places_without_support_have_no_part_in_a_region(maps, aligned):
    theta = affine.identity(1) if aligned else None
    support = torch.ones(8, 8, dtype=torch.bool)
    support[:4] = False
    distance = torch.rand(1, 8, 8)
    plain = maps.judged(distance, theta, support)
    found = maps.judged(torch.where(support, distance, 1e6), theta, support)
    assert torch.equal(found.regions, plain.regions) and found.score.isfinite()
    assert found.map[0, 8:12].isnan().any() and found.map[0, 18:].isfinite().all()
    support[:, 4:] = False
    assert maps.regions.supported(support).tolist() == [True, False]
    assert maps.judged(distance, theta, support).regions[0].isfinite().tolist() == [True, False]
    assert maps.coverage(maps.valid(theta), support, distance).tolist() == [0.0 if aligned else 1.0]


def test_no_label_no_place_and_no_gain_of_nothing():
    maps = AnomalyMaps((32, 32), (8, 8))
    with pytest.raises(ValueError, match="shape"):
        maps.interest(torch.ones(8, 8, dtype=torch.uint8))
    for value in (0, 2):
        with pytest.raises(ValueError, match="regions"):
            maps.interest(torch.full((32, 32), value, dtype=torch.uint8))
    with pytest.raises(ValueError, match="gains"):
        maps.interest(halves(), torch.tensor([1.0, 0.0]))


# The model -----------------------------------------------------------------------------------


def photographs(number: int, *, dots=(), noise: float = 0.01, seed: int = 0) -> torch.Tensor:
    """Plates that lie shifted, ``[N,3,64,64]``; white dots at places of the plate, and a ground
    beside it that is different in each."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    image = torch.full((3, SIZE, SIZE), 0.25)
    image[:, 20:46, 14:50] = 0.6
    image[0, 24:42, 18:23] = 0.1
    image[2, (x - 40) ** 2 + (y - 27) ** 2 < 14] = 0.95
    for column, row in dots:
        image[:, (x - column) ** 2 + (y - row) ** 2 < 7] = 1.0
    shift = (torch.rand(number, 2, generator=generator) - 0.5) * 0.3
    theta = affine.from_parameters(shift, "translation")
    moved = warp_affine(image.expand(number, -1, -1, -1), theta, padding_mode="border")
    return (moved + noise * torch.randn(moved.shape, generator=generator)).clamp(0, 1)


def plate() -> np.ndarray:
    """Labels of the plate: its left and its right half."""
    labels = np.zeros((SIZE, SIZE), np.uint8)
    labels[21:45, 15:31], labels[21:45, 31:49] = 1, 2
    return labels


@pytest.fixture(scope="module")
def fitted() -> FYD:
    return FYD(**QUICK).fit(photographs(10), photographs(4, seed=1))


@pytest.fixture
def model(fitted) -> FYD:
    return copy.deepcopy(fitted)


@pytest.fixture(scope="module")
def still(fitted) -> torch.Tensor:
    """A good plate where the template has it: its picture is the frame in which regions lie."""
    return fitted.predict_detail(photographs(1, seed=5)).aligned


def drawn(model: FYD, still: torch.Tensor) -> RegionsOfInterest:
    """The halves of the plate, drawn on an aligned picture: found by the plate's edge there."""
    bright = still[0].mean(0) > 0.45
    rows, columns = bright.any(1).nonzero()[:, 0], bright.any(0).nonzero()[:, 0]
    labels = np.roll(plate(), (int(rows[0]) - 20, int(columns[0]) - 14), (0, 1))
    return RegionsOfInterest(("left", "right"), labels)


def test_everything_as_one_region_has_the_thresholds_of_the_fit(model):
    whole = RegionsOfInterest(("part",), np.ones((SIZE, SIZE), np.uint8))
    options = {**QUICK, "align": "none", "top_share": 0.01}
    straight = FYD(**options).fit(photographs(10), photographs(4, seed=1))
    before = float(straight.image_threshold), float(straight.pixel_threshold)
    assert before[0] < before[1]
    straight.set_roi(whole)
    after = float(straight.image_threshold), float(straight.pixel_threshold)
    assert after == pytest.approx(before, rel=1e-5)
    assert "largest values" in straight.record.pixel_threshold_source
    before, record = float(model.image_threshold), model.record
    coverage = model.evidence.coverage
    model.set_roi(whole)
    # Places beside the part's frame, which smoothing reaches, are in no region.
    assert 0.95 * before < float(model.image_threshold) < 1.00001 * before
    assert model.roi_thresholds == {"part": float(model.image_threshold)}
    assert model.evidence.coverage == coverage
    assert "region of interest" in model.record.threshold_source
    model.set_roi(None)
    assert float(model.image_threshold) == before and model.record == record and model.roi is None


def test_a_fit_with_regions_is_a_fit_whose_regions_are_set(model, still, tmp_path):
    regions = drawn(model, still)
    Image.fromarray(regions.labels).save(tmp_path / "mask.png")
    model.set_roi(tmp_path / "mask.png")
    again = FYD(**QUICK).fit(photographs(10), photographs(4, seed=1), roi=tmp_path / "mask.png")
    model.save(tmp_path / "set.safetensors")
    again.save(tmp_path / "fitted.safetensors")
    assert (tmp_path / "set.safetensors").read_bytes() == (
        tmp_path / "fitted.safetensors"
    ).read_bytes()
    loaded = FYD.load(tmp_path / "set.safetensors")
    images = photographs(2, dots=[(25, 40)], seed=3)
    for one, other in zip(model.predict_detail(images), loaded.predict_detail(images), strict=True):
        assert torch.equal(one.nan_to_num(-1), other.nan_to_num(-1))
    assert loaded.roi.names == ("region 1", "region 2")
    assert loaded.roi_thresholds == model.roi_thresholds
    FYD.from_state(model.config, model.state_dict(), model.extra_metadata())


def test_a_defect_counts_where_its_region_is_and_nowhere_else(model, still):
    left, right, ground = [(26, 32)], [(44, 39)], [(7, 8)]
    given = [photographs(3, dots=dots, seed=9) for dots in ((), left, right, ground)]
    assert [(model(images)[0] > model.image_threshold).all() for images in given[1:]] == [True] * 3
    regions = drawn(model, still)
    model.set_roi(regions)
    assert float(model.image_threshold) == float(model.pixel_threshold) == 1.0
    # So few normal images leave the thresholds uncertain.
    model.set_threshold(1.5)
    details = [model.predict_detail(images) for images in given]
    past = [(detail.regions > 1.5).tolist() for detail in details]
    assert past == [[here] * 3 for here in ([False] * 2, [True, False], [False, True], [False] * 2)]
    for detail in details:
        assert torch.equal(detail.score, detail.regions.amax(1))
        share = detail.map.isfinite().float().mean((1, 2))
        assert share.tolist() == pytest.approx([float((plate() > 0).mean())] * 3, rel=0.1)
    # What is told of drift, and of other parts, is of what is judged.
    whole = Interest.from_record(model.record.regions_of_interest).before["normal_whole"]
    found = model.record.normal_whole
    assert found["residual"] == whole["residual"] and found["distance"] != whole["distance"]
    kept = model.record.normal_conditions["coverage"]["values"]
    assert (min(kept), max(kept)) == pytest.approx(
        (model.evidence.coverage.least, model.evidence.coverage.most)
    )
    # One region alone: the other's defects are not looked at.
    model.set_roi(RegionsOfInterest(("left",), (regions.labels == 1).astype(np.uint8)))
    assert float(model.image_threshold) != 1.0
    limit = 1.5 * model.image_threshold
    verdicts = [bool((model(images)[0] > limit).any()) for images in given]
    assert verdicts == [False, True, False, False]


def test_coverage_of_the_regions_decides_whether_there_is_enough_to_judge(
    model, still, monkeypatch
):
    """A part of which the left tenth of the frame, and more, is outside of the photograph."""
    regions = drawn(model, still)
    left = regions.labels == 1
    columns = left.any(0).nonzero()[0]
    # So far that half of the left region is outside.
    shift = 2 * float(columns.mean() + 0.5) / SIZE
    theta = affine.from_parameters(torch.tensor([[-shift, 0.0]]), "translation")
    located = Located(theta, torch.zeros(1))
    monkeypatch.setattr(model.pose, "locate", lambda images: located)

    def look(*names: str) -> tuple[bool, float, str]:
        chosen = [regions.names.index(name) + 1 for name in names]
        labels = np.zeros_like(regions.labels)
        for number, label in enumerate(chosen, 1):
            labels[regions.labels == label] = number
        model.set_roi(RegionsOfInterest(names, labels) if names else None)
        detail = model.predict_detail(still)
        reason = model.evidence.reason(detail, 0)
        return bool(detail.score.isfinite()), float(detail.coverage), reason

    judged, coverage, reason = look()
    assert not judged and "of the part, normal" in reason
    judged, coverage, reason = look("right")
    assert judged and coverage == 1 and not reason
    judged, coverage, reason = look("left")
    assert not judged and coverage == pytest.approx(0.5, abs=0.1)
    assert "of the region of interest, normal photographs 100 % to 100 %" in reason
    judged, coverage, reason = look("left", "right")
    assert not judged and coverage == pytest.approx(0.5, abs=0.1)
    assert "that it shows least of" in reason
    # Without anything asked of coverage what is in sight of each region is judged.
    model.record = replace(model.record, evidence=None)
    detail = model.predict_detail(still)
    assert detail.regions.isfinite().all() and detail.score.isfinite()


def test_regions_drawn_on_any_photograph_are_carried_to_the_parts_frame(model, still):
    regions = drawn(model, still)
    photo = photographs(1, noise=0, seed=11)
    theta = model.align(photo)
    # The same regions as they lie in the photograph.
    labels = torch.from_numpy(regions.labels)[None, None].float()
    there = warp_affine(labels, affine.invert(theta), mode="nearest")[0, 0].byte().numpy()
    assert not np.array_equal(there, regions.labels)
    pixels = photo[0].permute(1, 2, 0).numpy()
    model.set_roi(RegionsOfInterest(regions.names, there), drawn_on=pixels)
    assert (model.roi.labels == regions.labels).mean() > 0.99
    noise = np.random.default_rng(0).random((SIZE, SIZE, 3)).astype(np.float32)
    with pytest.raises(InputError, match="pose of the part was not found"):
        model.set_roi(regions, drawn_on=noise)


def test_the_threshold_of_a_region_is_changed_by_itself(model, still):
    model.set_roi(drawn(model, still))
    images = photographs(2, dots=[(26, 32)], seed=9)
    before, limits = model.predict_detail(images).regions, model.roi_thresholds
    model.set_threshold(2 * limits["left"], region="left")
    after = model.predict_detail(images).regions
    torch.testing.assert_close(after, before * torch.tensor([0.5, 1.0]))
    assert model.roi_thresholds["left"] == pytest.approx(2 * limits["left"])
    assert model.roi_thresholds["right"] == limits["right"]
    model.set_threshold(false_alarms=0.5, region="left")
    scores = [row[0] for row in Interest.from_record(model.record.regions_of_interest).scores]
    assert model.roi_thresholds["left"] == pytest.approx(np.median(scores), rel=1e-5)
    normal = model.record.normal_scores["scores"]
    assert max(normal) == pytest.approx(max(scores) / np.median(scores), rel=1e-4)
    model.set_threshold(fitted=True, region="left")
    assert model.roi_thresholds == limits
    # That of all regions is a factor of each, and one that is set is what was asked for.
    model.set_threshold(1.5)
    assert model.roi_thresholds["right"] == pytest.approx(1.5 * limits["right"])
    model.set_threshold(3 * limits["left"], region="left")
    assert model.roi_thresholds["left"] == pytest.approx(3 * limits["left"])
    assert model.roi_thresholds["right"] == pytest.approx(1.5 * limits["right"])
    for bad, message in (("middle", "it has left, right"), ("left", "above 0")):
        with pytest.raises(ConfigError, match=message):
            model.set_threshold(-1.0, region=bad)


def test_of_twins_the_largest_score_of_each_region_counts(model, still):
    regions = drawn(model, still)
    model.set_roi(regions)
    rows = Interest.from_record(model.record.regions_of_interest).scores
    kept = {**model.record.normal_distances, "groups": [0] * len(rows)}
    twins = model.of_rooms(model.rooms, replace(model.record, normal_distances=kept))
    twins.set_roi(regions)
    interest = Interest.from_record(twins.record.regions_of_interest)
    assert interest.scores == [[max(column) for column in zip(*rows, strict=True)]]
    assert interest.of.startswith("1 normal image")


def test_what_is_said_of_regions_goes_with_them(model, still):
    distances = NormalDistances.from_record(model.record.normal_distances)
    distances.distance[0, :, distances.distance.shape[2] // 2 :] = np.nan
    model.record = replace(model.record, normal_distances=distances.record())
    before = model.record.warnings
    for _ in range(2):
        model.set_roi(drawn(model, still))
        *others, lost = model.record.warnings
        assert others == before and lost.startswith("1 normal image could not be judged")
    assert model.set_roi(None).record.warnings == before


def test_a_fit_carries_regions_from_the_photograph_that_they_were_drawn_on(monkeypatch):
    given = {}
    monkeypatch.setattr(FYD, "set_roi", lambda model, roi, **rest: given.update(roi=roi, **rest))
    whole = RegionsOfInterest(("part",), np.ones((SIZE, SIZE), np.uint8))
    photo = np.zeros((SIZE, SIZE, 3), np.uint8)
    bare = FYD(**{**QUICK, "align": "none"})
    bare.fit(photographs(2), roi=whole, roi_photo=photo)
    assert given["roi"] is whole and given["drawn_on"] is photo
    with pytest.raises(InputError, match="none.png"):
        bare.fit(photographs(2), roi=whole, roi_photo="none.png")


def test_a_region_where_normal_photographs_show_nothing_is_refused(model, still, monkeypatch):
    none = torch.tensor([True, False])
    monkeypatch.setattr("fastalign.models.region_maps.RegionMaps.supported", lambda *_: none)
    with pytest.raises(InputError, match="region 'right' lies where too few"):
        model.set_roi(drawn(model, still))
    assert model.roi is None


def test_a_model_that_keeps_no_distances_says_to_fit_again(model):
    whole = RegionsOfInterest(("part",), np.ones((SIZE, SIZE), np.uint8))
    bare = FYD.from_state(
        model.config,
        model.state_dict(),
        {k: v for k, v in model.extra_metadata().items() if k != "normal_distances"},
    )
    with pytest.raises(ConfigError, match="fit it again with the regions"):
        bare.set_roi(whole)
    assert bare.roi is None
    with pytest.raises(ConfigError, match="not fitted"):
        FYD(**QUICK).set_roi(whole)


def test_regions_that_cannot_be_judged_are_refused_and_change_nothing(model):
    state = copy.deepcopy(model.state_dict())
    wide = RegionsOfInterest(("part",), np.ones((32, 64), np.uint8))
    with pytest.raises(InputError, match="2 times as wide"):
        model.set_roi(wide)
    # The model's own shape will do, and what lies between it and that of its photographs will not.
    model.record = replace(model.record, photographs={"aspect": [2.0, 2.1]})
    model.set_roi(RegionsOfInterest(("part",), np.ones((50, 51), np.uint8)))
    model.set_roi(wide).set_roi(None)
    with pytest.raises(InputError, match=r"1.5 times as wide as high, where .* is 2 to 2.1;"):
        model.set_roi(RegionsOfInterest(("part",), np.ones((32, 48), np.uint8)))
    labels = np.zeros((640, 640), np.uint8)
    labels[0, 0] = 1
    with pytest.raises(InputError, match=r"region 'dot'.*image size"):
        model.set_roi(RegionsOfInterest(("dot",), labels))
    assert model.roi is None and state.keys() == model.state_dict().keys()


def test_without_validation_images_there_are_regions_and_no_thresholds(still):
    bare = FYD(**{**QUICK, "align": "none"}).fit(photographs(3))
    bare.set_roi(RegionsOfInterest(("left", "right"), plate()))
    detail = bare.predict_detail(photographs(2))
    assert detail.regions.isfinite().all() and torch.isnan(bare.image_threshold)
    assert np.array_equal(detail.map[0].isfinite().numpy(), plate() > 0)
    assert all(np.isnan(value) for value in bare.roi_thresholds.values())
    # Once each region has one, set by hand, there are those of images and pixels.
    bare.set_threshold(5.0, region="left")
    assert torch.isnan(bare.image_threshold)
    bare.set_threshold(3.0, region="right")
    assert bare.roi_thresholds == pytest.approx({"left": 5.0, "right": 3.0})
    assert float(bare.image_threshold) == float(bare.pixel_threshold) == 1.0
    assert (
        bare.record.threshold_source
        == "set by hand in each region of interest, whose threshold is 1"
    )
    bare.set_threshold(fitted=True, region="right")
    assert torch.isnan(bare.image_threshold) and bare.record.threshold_source.startswith("none")


def test_a_state_that_makes_no_regions_is_refused(model, still):
    model.set_roi(drawn(model, still))
    state = model.state_dict()
    state["maps.regions.gain"] = -state["maps.regions.gain"]
    with pytest.raises(ValueError, match="gains"):
        FYD.from_state(model.config, state, model.extra_metadata())
    bare = {name: value for name, value in state.items() if "regions" not in name}
    with pytest.raises(ValueError, match="belong together"):
        FYD.from_state(model.config, bare, model.extra_metadata())
