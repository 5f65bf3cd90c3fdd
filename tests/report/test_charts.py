import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from fastalign.report import charts


def parse(svg):
    return ElementTree.fromstring(svg)


def test_histogram_shows_both_classes_and_the_threshold():
    svg = charts.histogram([1.0, 1.2, 1.1], [3.0, 4.0], 2.0)
    root = parse(svg)
    classes = [node.get("class") for node in root.iter()]
    assert "area good" in classes and "area anomaly" in classes and "threshold" in classes
    assert ">threshold<" in svg and "image score ÷ threshold" in svg


@pytest.mark.parametrize("threshold", [0.0, -2.5])
def test_histogram_keeps_the_scores_where_the_threshold_cannot_divide(threshold):
    svg = charts.histogram([-3.0, -2.8], [1.0], threshold)
    assert f"threshold {threshold:g}" in svg and ">image score<" in svg


def test_histogram_without_anomalies_or_threshold():
    svg = charts.histogram([1.0], [], None)
    classes = [node.get("class") for node in parse(svg).iter()]
    assert "area good" in classes
    assert "area anomaly" not in classes and "threshold" not in classes


def test_nothing_finite_no_chart():
    assert charts.histogram([math.nan], [math.inf], 1.0) == ""
    assert charts.before_after([math.nan], [1.0], ["good"]) == ""
    assert charts.by_number([(5, 0.5), (5, 0.7)], "y") == ""


def test_what_nothing_is_said_of_is_neither_good_nor_anomalous():
    svg = charts.before_after([0.1, 0.2, 0.3], [0.1, 0.2, 0.3], ["good", "anomaly", "unknown"])
    dots = [node.get("class") for node in parse(svg).iter() if "dot" in node.get("class", "")]
    assert dots == ["dot good", "dot anomaly", "dot other"]


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e6])
def test_everything_stays_inside_the_picture(scale):
    rng = np.random.default_rng(0)
    good, bad = rng.normal(3, 1, 50) * scale, rng.normal(6, 1, 20) * scale
    for svg in (
        charts.histogram(list(good), list(bad), 9.0 * scale),
        charts.before_after(
            list(good), list(good * 0.5), ["good", "anomaly", ""] * 16 + ["good"] * 2
        ),
        charts.rate_curve([charts.Curve(np.linspace(0, 1, 9), np.linspace(0, 1, 9))], "x", "y"),
        charts.by_number([(5, 0.4), (5, 0.2), (10, 1.0), (11, 1.0), (2000, 0.9)], "y"),
    ):
        root = parse(svg)
        _, _, width, height = map(float, root.get("viewBox").split())
        for node in root.iter():
            for key in ("x", "x1", "x2", "cx"):
                assert -1 <= float(node.get(key, 0)) <= width + 1
            for key in ("y", "y1", "y2", "cy"):
                assert -1 <= float(node.get(key, 0)) <= height + 1
        assert not re.search(r"nan|inf", svg)


def test_thinned_curve_keeps_its_ends_and_its_shape():
    x = np.linspace(0, 1, 20_001)
    y = x**0.1
    thin_x, thin_y = charts.thin(x, y, 0.30002)
    assert thin_x.size < 1000
    assert thin_x[0] == 0 and thin_x[-1] == 0.30002
    assert thin_y[-1] == pytest.approx(0.30002**0.1, abs=1e-6)
    assert np.abs(np.interp(x[x <= 0.3], thin_x, thin_y) - y[x <= 0.3]).max() < 0.01


def test_axis_labels_are_escaped():
    svg = charts.rate_curve(
        [charts.Curve(np.array([0.0, 1.0]), np.array([0.0, 1.0]))], "<x>", "a & b", note="<i>"
    )
    assert "<x>" not in svg and "<i>" not in svg
    parse(svg)
