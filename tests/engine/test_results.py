import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from fastalign.engine.mistakes import count_mistakes, fewest_mistakes
from fastalign.engine.results import Alignment, ImageResult, finite, order_by_error
from fastalign.metrics import IMAGE_FIGURES, PixelMetrics

NONE = Alignment(0, 0, 0, 0, 1, 1)


def image(name, label, score, threshold=1.0):
    predicted = None if threshold is None else int(score > threshold)
    return ImageResult(name, "", label, score, predicted, NONE)


def test_misclassified_first_then_the_closest_calls():
    images = [
        image("clear good", 0, 0.1),
        image("close good", 0, 0.9),
        image("slight alarm", 0, 1.1),
        image("clear alarm", 0, 3.0),
        image("clear find", 1, 4.0),
        image("missed", 1, 0.5),
        image("close find", 1, 1.05),
    ]
    order = [images[i].path for i in order_by_error(images, 1.0)]
    assert order == [
        "clear alarm",
        "missed",
        "slight alarm",
        "close find",
        "close good",
        "clear good",
        "clear find",
    ]


def test_without_a_threshold_the_highest_score_leads():
    images = [image(str(score), 0, score, None) for score in (1.0, 3.0, 2.0)]
    assert order_by_error(images, None) == [1, 2, 0]


def test_unlabelled_images_are_never_wrong():
    assert not image("x", -1, 5.0).wrong


def test_json_holds_no_nan():
    value = {"a": [math.nan, (math.inf, 1.5)], 3: Path("x") / "y", "b": None, "c": True}
    assert finite(value) == {
        "a": [None, [None, 1.5]],
        "3": str(Path("x") / "y"),
        "b": None,
        "c": True,
    }


def test_the_figures_are_those_of_the_metrics():
    from fastalign.engine.results import METRICS

    assert METRICS == (*IMAGE_FIGURES, *PixelMetrics().names)


@pytest.mark.parametrize("seed", range(8))
def test_the_fewest_mistakes_are_those_of_the_best_of_all_thresholds(seed):
    """Of several thresholds with the fewest mistakes the one with the fewest misses."""
    rng = np.random.default_rng(seed)
    labels = [0, 1, *rng.integers(0, 2, 7).tolist()]
    scores = [(int(rng.integers(1, 7)) + label * (seed % 3)) / 4 for label in labels]
    images = [image("", label, score) for label, score in zip(labels, scores, strict=True)]
    ranked = sorted(set(scores))
    between = [(low + high) / 2 for low, high in pairwise(ranked)]
    best = min(
        (count_mistakes(images, limit) for limit in (ranked[0] / 2, *between, ranked[-1])),
        key=lambda made: (made.total, made.missed),
    )
    found = fewest_mistakes([image("not judged", 1, math.nan), *images, image("other", -1, 9.0)])
    assert (found.total, found.missed) == (best.total, best.missed)
    assert found.threshold in (ranked[0] / 2, *between, ranked[-1])
    assert fewest_mistakes([one for one in images if one.label]) is None
