"""What is said of drift, in words and as data."""

import numpy as np
import pytest

from fastalign.drift.monitor import DriftMonitor
from fastalign.drift.normal import Normal
from fastalign.drift.statement import COLUMNS, STATISTICS, written

# Middle and spread of each statistic of the normal photographs.
USUAL = {
    "brightness": (0.5, 0.02),
    "sharpness": (0.4, 0.02),
    "warmth": (0.1, 0.01),
    "x": (0.01, 0.002),
    "y": (-0.02, 0.002),
    "rotation": (2.0, 0.5),
    "scale": (0.0, 0.01),
    "coverage": (0.95, 0.01),
    "score": (100.0, 10.0),
}


@pytest.fixture(scope="module")
def normal():
    rng = np.random.default_rng(0)
    return {
        name: Normal.of(rng.normal(middle, spread, 60).tolist(), angle=name == "rotation")
        for name, (middle, spread) in USUAL.items()
    }


def photographs(number, seed=1, **changed):
    rng = np.random.default_rng(seed)
    for _ in range(number):
        values = {name: float(rng.normal(*usual)) for name, usual in USUAL.items()}
        values = {name: value + changed.get(name, 0.0) for name, value in values.items()}
        yield {**values, "unjudged": changed.get("unjudged", 0.0)}


def go(monitor, conditions, start=1, size=(400, 300)):
    said = []
    for number, values in enumerate(conditions, start):
        said += monitor.add(f"part {number}", values, size)
    return said


CASES = {
    "darker": ({"brightness": -0.06}, "the photographs are darker by 12 % since part 31"),
    "softer": ({"sharpness": -0.2}, "the photographs are softer by 50 % since part 31"),
    "bluer": ({"warmth": -0.1}, "the light is bluer by 9.5 %, red against blue since part 31"),
    "left": (
        {"x": 0.0104},
        "the camera has moved 3.1 px to the left (or the parts to the right) since part 31",
    ),
    "down": ({"y": -0.02}, "the camera has moved 8 px down (or the parts up) since part 31"),
    "anticlockwise": (
        {"rotation": 5.0},
        "the camera has turned 5° anticlockwise (or the parts clockwise) since part 31",
    ),
    "farther": (
        {"scale": -0.1},
        "the camera is farther away (or zoomed out): the parts are smaller by 9.5 % since part 31",
    ),
    "less": ({"coverage": -0.2}, "the photographs show 20 % less of the part since part 31"),
    "higher": (
        {"score": 60.0},
        "scores are higher: half of them lie above 100 % of those of the normal photographs since "
        "part 31",
    ),
    "more": ({"unjudged": 1.0}, "100 % of the photographs cannot be judged since part 31"),
}


@pytest.mark.parametrize("direction", CASES)
def test_each_drift_is_told_once_in_its_words_with_its_size(normal, direction):
    changed, text = CASES[direction]
    monitor = DriftMonitor(normal)
    assert go(monitor, photographs(30)) == []
    (said,) = go(monitor, photographs(80, 2, **changed), 31)
    assert (said.state, said.direction) == ("began", direction)
    assert 28 <= int(said.since.split()[1]) <= 33
    # Numbers differ by what the photographs vary.
    words, expected = said.text.replace(said.since, "part 31").split(), text.split()
    assert len(words) == len(expected)
    for word, wanted in zip(words, expected, strict=True):
        if word != wanted:
            assert float(word.strip("°")) == pytest.approx(float(wanted.strip("°")), rel=0.15)
    assert said.photographs < 30
    assert said.at == f"part {int(said.since.split()[1]) + said.photographs - 1}"
    assert monitor.standing == [said]
    assert tuple(said.to_json()) == COLUMNS


@pytest.mark.parametrize(("sign", "way"), [(1, "left"), (-1, "right")])
def test_one_that_grows_is_told_again_and_one_that_ends_is_over(normal, sign, way):
    monitor = DriftMonitor(normal)
    said = go(monitor, photographs(40, 3, x=0.02 * sign))
    said += go(monitor, photographs(60, 4, x=0.06 * sign), 41)
    said += go(monitor, photographs(80, 5), 101)
    assert [(one.state, one.direction) for one in said] == [
        ("began", way),
        ("grew", way),
        ("ended", way),
    ]
    began, grew, ended = said
    assert abs(grew.size) >= 2 * abs(began.size) and grew.since == began.since == ended.since
    assert ended.text.startswith(f"over with {ended.at}: the camera has moved")
    assert monitor.standing == []


def test_it_depends_on_the_photographs_alone(normal):
    first, second = DriftMonitor(normal), DriftMonitor(dict(reversed(normal.items())))
    assert first.digest == second.digest
    go(first, photographs(40, 9, x=0.1))
    first.reset()
    assert first.standing == [] and first.photographs == 0
    drifting = list(photographs(60, 6, brightness=-0.1))
    assert go(first, drifting) == go(second, drifting) != []
    other = {**normal, "x": Normal.of([0.1 * step for step in range(12)])}
    assert DriftMonitor(other).digest != first.digest


def test_all_together_are_told_falsely_no_more_often_than_was_asked_for(normal):
    rng = np.random.default_rng(7)
    seen = alarms = 0
    for seed in range(12):
        drawn = {
            name: Normal.of(rng.normal(middle, spread, 60).tolist())
            for name, (middle, spread) in USUAL.items()
        }
        monitor = DriftMonitor(drawn, 400)
        for values in photographs(200, 100 + seed):
            seen += 1
            if monitor.add("", values, (1, 1)):
                alarms += 1
                break
    assert alarms <= seen / 400 + 2 * (seen / 400) ** 0.5


def test_what_is_missing_or_no_number_does_not_count(normal):
    monitor = DriftMonitor(normal)
    assert monitor.add("torn", {}, (4, 4)) == []
    assert monitor.add("odd", {"x": float("nan"), "height": 3.0}, (4, 4)) == []
    only = DriftMonitor({"brightness": normal["brightness"]})
    assert list(only.normal) == ["brightness", "unjudged"]


def test_every_direction_has_its_words():
    for how in STATISTICS.values():
        directions = {how.upward, how.downward} - {None}
        assert set(how.words) == directions
        assert all(words.count("{size}") == 1 for words in how.words.values())
    assert [written(3.14, "px"), written(12.4, "%"), written(5.0, "°")] == ["3.1 px", "12 %", "5°"]
