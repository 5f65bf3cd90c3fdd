import math
from pathlib import Path

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
