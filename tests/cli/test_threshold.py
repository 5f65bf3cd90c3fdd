"""Thresholds that are changed and kept, and what is said of them."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from fastalign import FYD
from fastalign.cli.evaluate import mistake_rows, other_threshold
from fastalign.cli.threshold import parse_share
from fastalign.engine.mistakes import count_mistakes, fewest_mistakes
from fastalign.engine.protocol import threshold_source
from fastalign.engine.results import ImageResult
from fastalign.engine.scoring import Thresholds
from fastalign.errors import ConfigError
from fastalign.models.record import FitRecord
from fastalign.models.thresholds import Change, changed, kept_scores

KEPT = Path(__file__).parents[1] / "storage" / "kept" / "version1.safetensors"
NORMAL = {"of": "101 normal images", "scores": [float(score) for score in range(101)]}


@pytest.fixture(scope="module")
def with_scores(tmp_path_factory):
    """A model whose fit has kept the scores 0 to 100, with the threshold 99."""
    path = tmp_path_factory.mktemp("threshold") / "scores.safetensors"
    model = FYD.load(KEPT)
    source = "quantile 0.99 of 101 normal images"
    model.record = dataclasses.replace(model.record, normal_scores=NORMAL, threshold_source=source)
    model.maps.set_thresholds(99.0, 99.0)
    model.save(path)
    return path


@pytest.fixture
def path(with_scores, tmp_path):
    return Path(shutil.copy(with_scores, tmp_path / "m.safetensors"))


def limits(path):
    model = FYD.load(path)
    return float(model.image_threshold), float(model.pixel_threshold)


def test_thresholds_are_shown_and_nothing_is_written(run, path):
    before = path.read_bytes()
    outcome = run("threshold", str(path))
    assert outcome.code == 0, outcome.err
    assert "image threshold: 99 (quantile 0.99 of 101 normal images)" in outcome.out
    assert "101, from 0 to 100; 1 above the image threshold (0.99 %)" in outcome.out
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "wanted", "said"),
    [
        (("90",), (90, 90), "90 (set by hand, after the fit, which gave 99 (quantile 0.99 of"),
        (("90", "--pixel"), (99, 90), "image threshold: 99 (quantile 0.99"),
        (("90.5", "--image"), (90.5, 99), "pixel threshold: 99 (quantile 0.99"),
        (("--quantile", "0.5"), (50, 50), "50 (quantile 0.5 of 101 normal images, after the fit"),
        (("--false-alarms", "10%"), (90, 90), "for 10 % false alarms, quantile 0.9 of 101 normal"),
        (("--false-alarms", "0.25", "--pixel"), (99, 75), "75 (for 25 % false alarms"),
    ],
)
def test_a_threshold_is_changed_and_kept(run, path, arguments, wanted, said):
    outcome = run("threshold", str(path), *arguments)
    assert outcome.code == 0, outcome.err
    assert limits(path) == pytest.approx(wanted)
    assert said in outcome.out and said in run("threshold", str(path)).out


def test_what_was_changed_says_so_and_goes_back(run, path):
    run("threshold", str(path), "40")
    run("threshold", str(path), "60", "--pixel")
    model = FYD.load(path)
    assert threshold_source(model).startswith("set by hand, after the fit, which gave 99 (quantile")
    assert model.extra_metadata()["fitted_thresholds"]["image"] == 99
    assert run("threshold", str(path), "--fitted", "--pixel").code == 0
    assert limits(path) == (40, 99)
    assert run("threshold", str(path), "--fitted").code == 0
    assert limits(path) == (99, 99)
    assert threshold_source(FYD.load(path)) == "quantile 0.99 of 101 normal images"
    assert "fitted_thresholds" not in FYD.load(path).extra_metadata()


def test_the_threshold_of_pixels_goes_back_to_its_own_source():
    """As a fit with ``top_share`` has it."""
    own = {"threshold_source": "quantile of scores", "pixel_threshold_source": "quantile of peaks"}
    record = FitRecord(**own)
    limits = 2.0, 3.0
    for which in ({"image": True, "pixel": False}, {"image": True, "pixel": True}):
        set_to, said = changed(record, limits, Change(value=5.0), **which)
        assert set_to[0] == 5 and said.fitted_thresholds["pixel"] == 3
        assert said.pixel_threshold_source.endswith("peaks" if not which["pixel"] else "peaks)")
        assert changed(said, set_to, None, **which) == (limits, record)


def test_a_rate_that_the_scores_cannot_tell_is_said(run, path):
    outcome = run("threshold", str(path), "--false-alarms", "0.1%")
    assert outcome.code == 0 and "cannot tell a rate below 0.99 %" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("nan",), "VALUE"),
        (("inf",), "VALUE"),
        (("--quantile", "1.5"), "--quantile 1.5: give a number from 0 to 1"),
        (("--quantile", "nan"), "--quantile nan"),
        (("--false-alarms", "1"), "--false-alarms 1: give a number from 0 up to, but not, 1, or a"),
        (("--false-alarms", "101%"), "--false-alarms 101: give a number from 0 to 100"),
        (("--false-alarms", "few"), "--false-alarms few"),
        (("3", "--quantile", "0.5"), "give one of VALUE"),
        (("3", "--fitted"), "give one of VALUE"),
        (("3", "--image", "--pixel"), "--image and --pixel together"),
        (("--pixel",), "say what to change"),
    ],
)
def test_what_is_no_threshold_is_named_and_nothing_is_written(run, path, arguments, named):
    before = path.read_bytes()
    outcome = run("threshold", str(path), *arguments)
    assert outcome.code == 2 and named in " ".join(outcome.err.replace("\u2502", " ").split())
    assert path.read_bytes() == before


def test_a_model_without_normal_scores_says_so(run, tmp_path):
    path = Path(shutil.copy(KEPT, tmp_path / "old.safetensors"))
    assert "scores of normal images: none kept" in run("threshold", str(path)).out
    outcome = run("threshold", str(path), "--quantile", "0.9")
    assert outcome.code == 2 and "keeps no scores of normal images" in outcome.err
    assert run("threshold", str(path), "3.5").code == 0 and limits(path) == (3.5, 3.5)


@pytest.mark.parametrize(("text", "share"), [("1%", 0.01), (" 0.5 % ", 0.005), ("0.02", 0.02)])
def test_shares(text, share):
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("options", [{}, {"value": 1.0, "fitted": True}, {"value": float("nan")}])
def test_python_refuses_the_same(options):
    with pytest.raises(ConfigError, match="threshold"):
        FYD.load(KEPT).set_threshold(**options)


def test_a_threshold_for_a_run_holds_for_masks_too():
    stored = Thresholds(5.0, 6.0)
    assert stored.given(None, None) == stored
    assert stored.given(3.0, None) == Thresholds(3.0, 3.0)
    assert stored.given(3.0, 4.0) == Thresholds(3.0, 4.0)
    assert stored.given(None, 4.0) == Thresholds(5.0, 4.0)
    with pytest.raises(ConfigError, match="pixel threshold nan"):
        stored.given(None, float("nan"))


def test_kept_scores_are_few_and_hold_the_ends():
    kept = kept_scores([float(value) for value in range(5000, 0, -1)])
    assert len(kept) == 1000 and (kept[0], kept[-1]) == (1, 5000) and kept == sorted(kept)
    assert kept_scores([2.0, 1.23456789]) == [1.23457, 2.0] and kept_scores([]) == []


def results(*pairs):
    return [
        ImageResult(str(index), "", label, score, None, None)
        for index, (label, score) in enumerate(pairs)
    ]


def test_mistakes_are_counted_and_the_fewest_found():
    images = results((0, 1.0), (0, 2.0), (1, 1.5), (1, 3.0), (1, 4.0), (-1, 9.0), (1, float("nan")))
    made = count_mistakes(images, 3.5)
    assert (made.false_alarms, made.good, made.missed, made.anomalous) == (0, 2, 2, 3)
    assert made.unsure == made.unsure_anomalous == 1 and made.unsure_good == 0
    best = fewest_mistakes(images)
    assert best.total == 1 and (best.threshold, best.missed) == (1.25, 0)
    assert count_mistakes(images, None) is None and fewest_mistakes(results((0, 1.0))) is None
    # Scores that are equal cannot be told apart.
    assert fewest_mistakes(results((0, 1.0), (1, 1.0), (1, 1.0))).total == 1


def test_the_table_begins_with_mistakes_and_says_what_was_seen_on_test_data():
    images = results((0, 1.0), (0, 2.0), (1, 2.5), (1, 3.0))

    class Found:
        mistakes = count_mistakes(images, 2.8).to_json()
        fewest_mistakes = fewest_mistakes(images).to_json()

    rows = dict(mistake_rows(Found))
    assert rows["false alarms"].startswith("0 of 2 good")
    assert rows["missed"].startswith("1 of 2 anomalous")
    told = other_threshold(Found)
    assert "threshold of 2.25" in told and "0 false alarms and 0 missed" in told
    assert "looking at the test images" in told and "not stored" in told
    Found.mistakes = count_mistakes(images, 2.2).to_json()
    assert other_threshold(Found) == ""
