"""A fitted model that takes in more photographs."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from fastalign import FYD
from fastalign.errors import ConfigError, InputError
from fastalign.models.fitting.gaussians import least_count
from fastalign.models.interest import Interest
from fastalign.models.known import KnownImages
from fastalign.models.rooms import warp
from fastalign.models.thresholds import limit_of
from fastalign.nn import DenseGaussian
from fastalign.roi import RegionsOfInterest

SIZE = 64
QUICK = {"image_size": (SIZE, SIZE), "channels": 12, "align": "ica", "family": "translation"}


def parts(number: int, seed: int, mark: bool = False) -> torch.Tensor:
    """A bright ring on structured grey, shifted; ``mark``: with a stain at one place of it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    found = []
    for _ in range(number):
        down, right = rng.integers(-4, 5, 2)
        distance = np.hypot(y - 32 - down, x - 32 - right)
        image = np.where(abs(distance - 16) < 4, 0.8, 0.35) + 0.05 * rng.normal()
        image += 0.03 * np.sin(x / 3 + rng.uniform(0, 6))
        image[30 + down : 34 + down, 44 + right : 52 + right] = 0.9
        if mark:
            stain = (y + x) // 3 % 2 * rng.uniform(0.4, 0.6)
            place = slice(22 + down, 42 + down), slice(22 + right, 42 + right)
            image[place] += stain[place]
        image += rng.normal(0, 0.02, image.shape)
        found.append(np.repeat(image.clip(0, 1)[None], 3, 0))
    return torch.tensor(np.stack(found), dtype=torch.float32)


TRAIN, VALIDATION = parts(20, 1), parts(4, 2)
# Good parts of a kind that the fit has not seen, which it takes for anomalies.
MARKED = parts(4, 3, mark=True)


@pytest.fixture(scope="module")
def fitted():
    return FYD(**QUICK).fit(TRAIN, VALIDATION, seed=0)


@pytest.fixture
def model(fitted):
    return copy.deepcopy(fitted)


def features_of(model, images):
    found = model.pose.locate(images)
    stages, theta = model.features.extract(warp(images, found.theta), found.theta)
    return model.density.describe(stages), model.maps.valid(theta)


def halves(*names: str) -> RegionsOfInterest:
    labels = np.zeros((SIZE, SIZE), np.uint8)
    for index, part in enumerate(np.split(labels[8:56, 8:56], len(names), axis=1), 1):
        part[:] = index
    return RegionsOfInterest(names, labels)


def test_n_photographs_and_m_more_are_the_density_of_all():
    """To the rounding of a stored float32 whitener, by the network and the template of the fit;
    tests/nn/test_low_rank.py has those of low rank."""
    packed = {"reduction": "draw", "prior": 0.0, "storage": "float32", "strides": (4, 8, 16)}
    model = FYD(**QUICK, **packed).fit(TRAIN, VALIDATION, seed=0)
    with torch.no_grad(), model.as_in_a_fit():
        every = [features_of(model, images[None]) for images in (*TRAIN, *VALIDATION, *MARKED)]
        test, _ = features_of(model, parts(2, 8))
    gaussians = model.density.gaussians
    whole = DenseGaussian(gaussians.channels, gaussians.size)
    for features, valid in every:
        whole.update(features, valid)
    whole.finalize(min_count=least_count(len(every), model.config.min_share))
    before = gaussians.support
    outcome = model.update(MARKED)
    assert [one.name for one in outcome.taken] == [f"update image {i}" for i in range(4)]
    joined = model.density.gaussians
    assert len(joined.count.unique()) > 2 and torch.equal(joined.count[before], whole.count[before])
    both = before & whole.support
    assert torch.equal(joined.support & before, both) and both.float().mean() > 0.5
    found, expected = joined(test)[:, both], whole(test)[:, both]
    assert (found - expected).abs().max() < 1e-4 * expected.max()


def test_false_alarms_are_known_then_and_a_defect_is_found(model, tmp_path):
    defect = parts(1, 9)
    defect[:, :, 10:22, 40:52] = 0.0
    before = float(model(defect)[0])
    outcome = model.update(MARKED)
    assert all(one.before > outcome.before[0] for one in outcome.taken)
    assert all(one.after < one.before and one.after < outcome.after[0] for one in outcome.taken)
    assert float(model(defect)[0]) > outcome.after[0] and before > outcome.before[0]
    assert model.record.images["update"] == 4
    assert len(KnownImages.from_record(model.record.known_images).names) == 28
    # Others of the kind score less than before, which nothing had seen.
    path = tmp_path / "m.safetensors"
    model.save(path)
    again = FYD.load(path)
    others = parts(3, 11, mark=True)
    assert torch.equal(again(others)[0], model(others)[0])
    assert again.record == FYD.load(path).record


def test_others_of_their_kind_score_less(fitted, model):
    others = parts(4, 12, mark=True)
    model.update(MARKED)
    assert (model(others)[0] < fitted(others)[0]).all()


def test_thresholds_are_the_rule_of_the_fit_on_stored_and_new_scores(fitted, model):
    outcome = model.update(MARKED)
    normal = model.record.normal_scores
    assert len(normal["scores"]) == 28
    assert normal["of"].startswith("28 normal images") and "4 of them by updates" in normal["of"]
    value, rule = limit_of(normal["scores"], model.config.threshold_quantile)
    assert outcome.after[0] == pytest.approx(value, rel=1e-5)
    assert outcome.after == (float(model.image_threshold), float(model.pixel_threshold))
    assert model.record.threshold_source == f"{rule} of {normal['of']}"
    # Each is scored without itself: above what it scores once it is in the density.
    new = sorted(set(normal["scores"]) - set(fitted.record.normal_scores["scores"]))
    assert len(new) == 4 and min(new) > min(one.after for one in outcome.taken)
    assert outcome.normal == 24 and outcome.above_before >= outcome.above_after
    # One more time: words and numbers go on.
    model.update(parts(2, 20))
    assert model.record.normal_scores["of"].startswith("30 normal images")
    assert model.record.normal_scores["of"].endswith("6 of them by updates")


def test_a_threshold_that_was_set_stays_and_may_be_kept(fitted, model):
    model.set_threshold(7.5)
    model.update(MARKED)
    assert float(model.image_threshold) == float(model.pixel_threshold) == 7.5
    # What the fit had set is what it would be by all of them.
    plain = copy.deepcopy(fitted)
    derived = plain.update(MARKED).after[0]
    assert model.record.fitted_thresholds["image"] == pytest.approx(derived) != 7.5
    assert derived != float(fitted.image_threshold)
    # Of the two the one that was not set is what the update derives.
    alone = copy.deepcopy(fitted).set_threshold(7.5, pixel=False)
    assert alone.update(MARKED).after == (7.5, pytest.approx(float(plain.pixel_threshold)))
    sources = alone.record.threshold_source, alone.record.pixel_threshold_source
    assert "set by hand" in sources[0] and sources[1] == plain.record.threshold_source
    kept = copy.deepcopy(fitted)
    kept.update(MARKED, keep_threshold=True)
    assert float(kept.image_threshold) == float(fitted.image_threshold)
    assert kept.record.threshold_source == fitted.record.threshold_source


def test_photographs_of_the_fit_copies_and_what_cannot_be_judged_are_left_out(model):
    nothing = torch.zeros(3, SIZE, SIZE)
    given = [TRAIN[2], MARKED[0], MARKED[0].clone(), (MARKED[0] * 255).round() / 255]
    outcome = model.update([*given, VALIDATION[1]])
    reasons = dict(outcome.left_out)
    assert [one.name for one in outcome.taken] == ["update image 1"]
    assert "the model was fitted on it" in reasons["update image 0"]
    assert "the model was fitted on it" in reasons["update image 4"]
    assert "a copy of another one" in reasons["update image 2"]
    assert "a copy of another one" in reasons["update image 3"]
    with pytest.raises(InputError, match=r"none of the 2 photographs can be taken in; .*fitted on"):
        model.update([TRAIN[0], MARKED[0]])
    with pytest.raises(InputError, match="cannot be judged"):
        model.update([nothing])


def test_what_is_nearly_a_photograph_of_the_fit_has_no_part_in_the_thresholds(model):
    near = (TRAIN[3] + 0.002).clamp(0, 1)
    outcome = model.update([near])
    (one,) = outcome.taken
    assert one.near == "training image 3"
    assert len(model.record.normal_scores["scores"]) == 24 and outcome.before == outcome.after


def test_regions_of_interest_get_thresholds_of_the_updated_density(model):
    model.set_roi(halves("left", "right"))
    before, earlier = model.roi_thresholds, model.record
    outcome = model.update(MARKED)
    after = model.roi_thresholds
    assert model.roi.names == ("left", "right") and outcome.after == (1.0, 1.0)
    assert all(after[name] != before[name] for name in before)
    assert all(one.before > 1 > one.after for one in outcome.taken)
    # Scores of the fit are in units of its thresholds, and counted by those of now.
    scores = Interest.from_record(earlier.regions_of_interest).scores
    assert outcome.above_after == sum(
        row[0] > after["left"] or row[1] > after["right"] for row in scores
    )
    assert outcome.above_after != outcome.above_before
    # Without the regions again it is the model that was updated without them.
    model.set_roi(None)
    assert len(model.record.normal_scores["scores"]) == 28


def test_thresholds_of_regions_that_were_set_stay_and_may_be_kept(model):
    model.set_roi(halves("left", "right")).set_threshold(33.0, region="left")
    before = model.roi_thresholds
    kept = copy.deepcopy(model)
    model.update(MARKED)
    after = model.roi_thresholds
    assert after["left"] == pytest.approx(33.0) and after["right"] != before["right"]
    kept.update(MARKED, keep_threshold=True)
    assert kept.roi_thresholds == pytest.approx(before) and kept.image_threshold == 1


def test_the_threshold_of_one_region_that_was_set_stays(model):
    model.set_roi(halves("all"))
    fitted = float(model.image_threshold)
    kept = copy.deepcopy(model)
    model.set_threshold(33.0).update(MARKED)
    assert float(model.image_threshold) == 33 and "set by hand" in model.record.threshold_source
    derived = model.record.fitted_thresholds["image"]
    assert float(model.set_threshold(fitted=True).image_threshold) == pytest.approx(derived)
    kept.update(MARKED, keep_threshold=True)
    assert float(kept.image_threshold) == fitted != pytest.approx(derived, rel=1e-6)


def test_on_an_error_the_model_is_as_it_was(model, monkeypatch):
    model.set_roi(halves("all"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    record = model.record

    def refuse(self, *args, **options):
        raise ConfigError("not positive definite")

    monkeypatch.setattr(DenseGaussian, "extended", refuse)
    with pytest.raises(ConfigError, match="not positive definite"):
        model.update(MARKED)
    after = model.state_dict()
    assert record is model.record and before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_model_without_thresholds_stays_without_and_one_that_is_not_fitted_is_refused():
    with pytest.raises(ConfigError, match="not fitted"):
        FYD(**QUICK).update(MARKED)
    model = FYD(**{**QUICK, "align": "none"}).fit(TRAIN, seed=0)
    outcome = model.update(MARKED[:1])
    assert all(map(math.isnan, outcome.after)) and "no scores of normal" in outcome.warnings[0]
    assert model.density.gaussians.count.unique().tolist() == [21]
