"""What an image must show to be judged: limits from normal images, verdicts and reasons by them."""

from __future__ import annotations

import json

import pytest
import torch

from fastalign.models.evidence import Evidence, Usual, coverage_of
from fastalign.models.record import FitRecord


def test_coverage_may_lie_below_that_of_normal_images_by_half_of_their_spread_and_a_margin():
    usual = Usual.of_coverage([0.9, 0.96, 0.98, 0.94])
    assert usual is not None and (usual.least, usual.most, usual.images) == (0.9, 0.98, 4)
    assert usual.limit == pytest.approx(0.9 - 0.5 * (0.95 - 0.9) - 0.02 - 0.25 / 4)
    whole = Usual.of_coverage([1.0] * 100)
    assert whole is not None and 0.97 < whole.limit < 1
    few = Usual.of_coverage([0.1])
    assert few is not None and few.limit == 0
    assert Usual.of_coverage([]) is None


def test_a_pose_is_lost_halfway_from_the_worst_of_normal_images_to_chance():
    usual = Usual.of_residuals([0.1, 0.32, 0.2])
    assert usual is not None and usual.limit == pytest.approx(0.66)
    assert Usual.of_residuals([]) is None
    # Where normal images agree with nothing themselves, nothing is asked.
    chance = Usual.of_residuals([0.3, 1.4])
    assert chance is not None and chance.limit == pytest.approx(1.4)


def test_a_record_comes_back_and_an_older_file_asks_for_nothing():
    evidence = Evidence(Usual.of_coverage([0.9, 1.0]), Usual.of_residuals([0.2, 0.3]))
    plain = json.loads(json.dumps(evidence.record()))
    assert Evidence.from_record(plain) == evidence
    assert Evidence.from_record(None) == Evidence() == Evidence.from_record({})
    assert Evidence().enough(torch.full((2,), 2.0), torch.zeros(2)) is None
    old = FitRecord.from_metadata({"least_covered": 0.9})
    assert old.evidence is None and old.metadata() == {"least_covered": 0.9}


def test_enough_is_a_pose_and_enough_of_the_part():
    coverage = Usual.of_coverage([0.9, 1.0])
    residual = Usual.of_residuals([0.2, 0.3])
    lost, little = torch.tensor([0.1, 0.9, 0.1, 0.9]), torch.tensor([0.9, 0.9, 0.1, 0.1])
    assert Evidence(coverage, residual).enough(lost, little).tolist() == [True, False, False, False]
    assert Evidence(coverage).enough(lost, little).tolist() == [True, True, False, False]
    assert Evidence(None, residual).enough(lost, little).tolist() == [True, False, True, False]
    # Without a template there is no residual to ask for.
    assert Evidence(coverage, residual).enough(None, little).tolist() == [True, True, False, False]


def test_coverage_is_of_the_places_that_normal_images_showed():
    valid = torch.zeros(2, 4, 4, dtype=torch.bool)
    valid[0, :2], valid[1, :, 0] = True, True
    support = torch.zeros(4, 4, dtype=torch.bool)
    support[:, :2] = True
    assert coverage_of(valid, None, valid).tolist() == [0.5, 0.25]
    assert coverage_of(valid, support, valid).tolist() == [0.5, 0.5]
    assert coverage_of(None, support, valid).tolist() == [1.0, 1.0]
