"""A score meets a threshold in one place, and what could not be judged is never good."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fastalign.verdict import Verdict, judge, judge_each

SCORES = [-math.inf, 0.0, 1.0, 1.5, math.inf, math.nan]
NOT, GOOD, BAD = Verdict.NOT_JUDGED, Verdict.GOOD, Verdict.ANOMALY
EXPECTED = [NOT, GOOD, GOOD, BAD, NOT, NOT]


def test_only_a_finite_score_at_or_below_a_finite_threshold_is_good():
    assert [judge(score, 1.0) for score in SCORES] == EXPECTED
    assert [verdict.text for verdict in (GOOD, BAD, NOT)] == ["good", "anomaly", "not judged"]


@pytest.mark.parametrize("threshold", [None, math.nan, math.inf, -math.inf])
def test_without_a_finite_threshold_nothing_is_judged(threshold):
    assert {judge(score, threshold) for score in SCORES} == {NOT}
    assert (judge_each(np.array(SCORES), threshold) == NOT).all()
    assert (judge_each(torch.tensor(SCORES), threshold) == NOT).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_arrays_and_tensors_are_judged_as_single_scores_are(dtype):
    array = np.array([SCORES, SCORES], dtype)
    for judged in (
        judge_each(array, 1.0),
        judge_each(torch.from_numpy(array), 1.0).numpy(),
        judge_each(torch.from_numpy(array), torch.tensor(1.0)).numpy(),
    ):
        assert judged.dtype == np.int8 and judged.tolist() == [EXPECTED, EXPECTED]
