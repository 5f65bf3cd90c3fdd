"""One statistic: how often it alarms without a change, how soon with one, and where it began."""

import math

import numpy as np
import pytest

from fastalign.drift.normal import LEAST, Normal, inflation, persistence_of
from fastalign.drift.track import Track

INTERVAL = 400


def persistent(rng, number, share=0.7):
    values = [rng.standard_normal()]
    for noise in rng.standard_normal(number - 1) * math.sqrt(1 - share**2):
        values.append(share * values[-1] + noise)
    return np.array(values)


DRAWS = {
    "normal": lambda rng, number: rng.standard_normal(number),
    "heavy tails": lambda rng, number: rng.standard_t(3, number),
    "skewed": lambda rng, number: np.exp(rng.standard_normal(number)),
    "persistent": persistent,
}


def told(track, values, upward=True):
    for number, value in enumerate(values.tolist(), 1):
        if (upward, True) in track.add(f"{number}.png", number, value):
            return number
    return None


@pytest.mark.parametrize("number", [20, 100])
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_false_alarms_are_no_more_than_was_asked_for_whatever_the_normal_photographs(draw, number):
    # Over many draws of the normal photographs themselves: few of them are off by much.
    rng = np.random.default_rng(number)
    alarms = seen = 0
    for _ in range(60):
        track = Track(Normal.of(draw(rng, number).tolist()), INTERVAL)
        at = told(track, draw(rng, INTERVAL // 2))
        alarms += at is not None
        seen += at or INTERVAL // 2
    # Without the allowance for the sample, or for persistence, it is several times as many.
    expected = seen / INTERVAL
    assert alarms <= expected + 2 * math.sqrt(expected)


def test_without_uncertainty_the_rate_is_the_one_that_was_asked_for():
    rng = np.random.default_rng(0)
    normal = Normal([float(value) for value in np.sort(rng.standard_normal(2000))], 10**9)
    alarms, values = 0, rng.standard_normal(60_000)
    track = Track(normal, 100)
    for number, value in enumerate(values.tolist()):
        for upward, stands in track.add("", number, value):
            if stands:
                alarms += 1
                track.sides[upward].sum, track.sides[upward].standing = 0.0, False
    # Two directions. What it learns of the line from false alarms makes it a little slower.
    assert 0.65 < alarms / (2 * len(values) / 100) < 1.05


@pytest.mark.parametrize("upward", [True, False])
@pytest.mark.parametrize("unit", [1.0, 1e-6, 1e6])
def test_a_change_is_told_with_its_direction_its_place_and_its_size_in_any_unit(upward, unit):
    rng = np.random.default_rng(1)
    normal = Normal.of((unit * rng.normal(5, 1, 60)).tolist())
    track = Track(normal, 1_800_000)
    sign = 1 if upward else -1
    values = unit * np.concatenate([rng.normal(5, 1, 200), rng.normal(5 + 3 * sign, 1, 60)])
    at = told(track, values, upward)
    assert at is not None and 200 < at < 230
    assert abs(track.sides[upward].since[1] - 201) <= 2
    for number, value in enumerate(values[at:].tolist(), at + 1):
        track.add("", number, value)
    shift = track.shift(upward)
    assert (shift.value - shift.normal) / unit == pytest.approx(3 * sign, abs=0.7)


def test_a_change_began_with_the_first_photograph_that_spoke_for_it_however_little():
    normal = Normal([float(value) for value in np.linspace(-2, 2, 201)], 10**9)
    track = Track(normal, 1000)
    track.add("little.png", 1, 1.0)
    assert 0 < track.sides[True].sum < 1
    assert told(track, np.full(20, 3.0)) is not None
    assert track.sides[True].since == ("little.png", 1)


def test_where_a_line_lies_says_nothing_of_how_it_varies():
    inflations = []
    for level in (0.0, -9.0):
        track = Track(Normal([float(value) for value in np.linspace(-2, 2, 201)], 10**9), 1000)
        for number in range(4):
            track.add("", number, level)
        inflations.append(track.sides[True].inflation)
    assert inflations[0] == pytest.approx(inflations[1])


def test_a_drift_is_over_when_it_goes_back_and_when_it_turns_round():
    rng = np.random.default_rng(2)
    track = Track(Normal.of(rng.normal(0, 1, 80).tolist()), 10_000)
    states = []
    for index, level in enumerate([0, 4, 0, 4, -4]):
        for value in rng.normal(level, 1, 80):
            states += [(index, *change) for change in track.add("", 0, float(value))]
    assert states == [
        (1, True, True),
        (2, True, False),
        (3, True, True),
        (4, True, False),
        (4, False, True),
    ]


def test_differences_within_the_tolerance_are_none_even_of_what_never_differed():
    track = Track(Normal([1.0] * 30, 30, 0.0, 0.02), 1000)
    assert told(track, np.full(2000, 1.0199)) is None
    assert told(Track(Normal([1.0] * 30, 30, 0.0, 0.02), 1000), np.full(20, 1.021)) is not None


def test_a_few_wild_values_are_no_drift():
    rng = np.random.default_rng(3)
    track = Track(Normal.of(rng.normal(0, 1, 60).tolist()), 100_000)
    values = rng.normal(0, 1, 600)
    values[::12] = 1e9
    assert told(track, values) is None
    assert track.add("", 0, math.nan) == []


def test_angles_are_counted_around_their_mean():
    angles = [7 * step % 31 - 15 + 180 for step in range(31)]
    normal = Normal.of(
        [angle % 360 - 360.0 * (angle % 360 > 180) for angle in angles], 0.2, angle=True
    )
    assert abs(normal.origin) == pytest.approx(180, abs=0.01)
    assert normal.placed(-178.0) == pytest.approx(2, abs=0.01)
    assert told(Track(normal, 1000), np.array([178.0, -178.0, 180.0, -176.0, 176.0] * 40)) is None
    assert told(Track(normal, 1000), np.full(60, -150.0)) is not None


def test_normal_scores_follow_ranks_and_distance_and_end_at_three():
    normal = Normal([float(value) for value in range(1, 20)], 19)
    assert normal.score(10.0) == 0
    assert normal.score(4.0) == pytest.approx(-normal.score(16.0))
    assert normal.score(16.0) == pytest.approx(0.84, abs=0.02)  # the quantile 0.8
    assert normal.score(19.5) < normal.score(22.0) < normal.score(1e9) == 3
    assert Normal.from_record(normal.record()) == normal


def test_too_few_photographs_say_nothing_and_many_are_thinned():
    assert Normal.of([1.0, 2.0] * (LEAST // 2 - 1) + [math.nan] * 9) is None
    rng = np.random.default_rng(4)
    values = rng.normal(0, 1, 5000).tolist()
    many = Normal.of(values)
    assert len(many.values) == 200 and many.number == 5000
    assert many.values[0] == pytest.approx(min(values), rel=1e-5)
    assert many.median == pytest.approx(0, abs=0.05)


def test_persistence_is_the_autocorrelation():
    rng = np.random.default_rng(5)
    for share in (0.0, 0.5):
        values = persistent(rng, 4000, share)
        found = persistence_of(float(np.square(np.diff(values)).mean()), float(values.var()))
        assert found == pytest.approx(share, abs=0.06)
    assert inflation(0.5) == 3
    assert persistence_of(0.0, 0.0) == 0
