from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastalign.errors import InputError
from fastalign.metrics import IMAGE_FIGURES, image_metrics


def by_definition(scores, labels):
    """All three by loops over pairs and thresholds."""
    bad = [s for s, label in zip(scores, labels, strict=True) if label]
    good = [s for s, label in zip(scores, labels, strict=True) if not label]
    wins = sum((b > g) + 0.5 * (b == g) for b in bad for g in good)
    ap, recall, best = 0.0, 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        hits = sum(b >= threshold for b in bad)
        alarms = sum(g >= threshold for g in good)
        ap += (hits / len(bad) - recall) * hits / (hits + alarms)
        recall = hits / len(bad)
        best = max(best, 2 * hits / (2 * hits + alarms + len(bad) - hits))
    return wins / (len(bad) * len(good)), ap, best


cases = st.integers(2, 25).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float64, n, elements=st.integers(-4, 4)),
        hnp.arrays(np.int64, n, elements=st.integers(0, 1)).filter(lambda x: 0 < x.sum() < x.size),
    )
)


@settings(max_examples=100, deadline=None)
@given(cases)
def test_they_are_their_definitions(case):
    figures = image_metrics(*case)
    assert tuple(figures) == IMAGE_FIGURES
    assert tuple(figures.values()) == pytest.approx(by_definition(*case))
    assert figures.reasons == {}
    assert all(type(value) is float for value in figures.values())


@settings(max_examples=40, deadline=None)
@given(cases, st.randoms(use_true_random=False))
def test_order_and_monotone_change_do_not_count(case, random):
    scores, labels = case
    order = random.sample(range(len(scores)), len(scores))
    changed = image_metrics(np.exp(scores[order]) - 7, labels[order])
    assert changed == pytest.approx(image_metrics(scores, labels))


def test_perfect_and_useless_scores():
    assert set(image_metrics([0, 1, 5, 6], [0, 0, 1, 1]).values()) == {1.0}
    useless = image_metrics([3, 3, 3, 3], [0, 1, 0, 1])
    assert useless == pytest.approx({"image_auroc": 0.5, "image_ap": 0.5, "image_f1max": 2 / 3})


@pytest.mark.parametrize(
    ("labels", "missing"), [([0, 0], "anomalous"), ([1, 1], "good"), ([], "anomalous")]
)
def test_one_kind_of_image_only(labels, missing):
    figures = image_metrics([1.0] * len(labels), labels)
    assert figures == dict.fromkeys(IMAGE_FIGURES)
    assert figures.reasons == dict.fromkeys(IMAGE_FIGURES, f"there are no {missing} images")
    assert json.loads(json.dumps(figures, allow_nan=False)) == dict.fromkeys(IMAGE_FIGURES)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number(bad):
    with pytest.raises(InputError, match=r"b\.png: its score is -?(nan|inf)"):
        image_metrics([0.0, bad], [0, 1], names=["a.png", "b.png"])
    with pytest.raises(InputError, match="image 1: its score"):
        image_metrics([0.0, bad], [0, 0])


def test_other_labels_and_shapes_are_refused():
    with pytest.raises(ValueError, match="label -1: 0 .good. or 1 .anomalous."):
        image_metrics([1.0, 2.0], [0, -1])
    with pytest.raises(ValueError, match=r"scores \[2\] and labels \[3\]"):
        image_metrics([1.0, 2.0], [0, 1, 1])
    with pytest.raises(ValueError, match=r"scores \[1, 2\]"):
        image_metrics([[1.0, 2.0]], [[0, 1]])
