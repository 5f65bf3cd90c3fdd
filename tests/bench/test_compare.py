"""Comparisons on invented times: what was planted is found, and noise is not."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

import fastalign
from fastalign.bench import compare, interleave, run
from fastalign.errors import ConfigError, InputError


def noisy(seed, ms, count=25, spread=0.05):
    draw = random.Random(seed)
    return [ms * math.exp(draw.gauss(0, spread)) for _ in range(count)]


def test_interval_of_a_median_by_order_statistics():
    # Of 25 values 2 * P(at most 5 below) = 0.0041 and with 6 0.0146, so at 99 % ranks 6 and 20.
    assert compare.median_interval(range(25), 0.99) == (5, 19)
    assert compare.median_interval(range(8), 0.99) == (0, 7)
    assert compare.median_interval(range(7), 0.99) == (-math.inf, math.inf)


def test_the_interval_holds_the_median_as_often_as_it_says():
    draw = random.Random(0)
    held = 0
    for _ in range(2000):
        low, high = compare.median_interval([draw.gauss(0, 1) for _ in range(15)], 0.9)
        held += low <= 0 <= high
    # Three standard deviations of the count below 90 %.
    assert held / 2000 > 0.9 - 3 * math.sqrt(0.09 / 2000)


def test_a_planted_slowdown_is_found_and_equal_code_is_not():
    ours, equal, control = noisy(1, 1.2), noisy(2, 1.2), noisy(3, 1.2)
    slower = compare.paired("case", "fastalign/cpu", ours, noisy(4, 1.0), control)
    assert slower.verdict == "slower" and 0.75 < slower.ratio < 0.92
    assert compare.paired("case", "x", noisy(4, 1.0), ours, noisy(5, 1.0)).verdict == "faster"
    assert compare.paired("case", "x", ours, equal, control).verdict == "within the noise"


def test_a_control_that_differs_as_much_takes_the_difference_back():
    ours, baseline = noisy(1, 1.2), noisy(2, 1.0)
    found = compare.paired("case", "x", ours, baseline, noisy(3, 1.0))
    assert found.noise > 0.15 and found.verdict == "within the noise"


def test_drift_of_the_machine_does_not_look_like_a_change():
    """Every turn is slower than the one before; a pair sees the same machine."""
    drift = [1 + 0.1 * turn for turn in range(25)]
    ours, control = [1.0 * d for d in drift], [1.001 * d for d in drift]
    found = compare.paired("case", "x", ours, [1.1 * d for d in drift], control)
    assert found.verdict == "faster" and found.ratio == pytest.approx(1.1)


def test_turns_by_an_injected_clock_find_a_planted_slowdown():
    calls = []

    def child(name, ms):
        def call(contestant):
            calls.append(name)
            return ms * (1 + 0.01 * (len(calls) % 3))

        return call

    children = {"ours": child("ours", 3.0), "baseline": child("baseline", 2.0)}
    children["control"] = child("control", 3.0)
    times = interleave.turns(children, ["fastalign/cpu"], rounds=20)["fastalign/cpu"]
    assert [len(times[name]) for name in children] == [20, 20, 20]
    # Each round has every child once, and not always in the same order.
    rounds = [tuple(calls[n : n + 3]) for n in range(0, 60, 3)]
    assert all(sorted(one) == sorted(children) for one in rounds) and len(set(rounds)) > 2
    assert compare.paired("case", "fastalign/cpu", **times).verdict == "slower"


def document(ours, eager):
    entries = {"fastalign/cpu": {"samples": ours}, "eager": {"samples": eager}}
    return {"rows": [{"case": "case", "contestants": entries}]}


def test_two_stored_runs():
    old = document(noisy(1, 1.0, spread=0.01), noisy(2, 5.0, spread=0.01))
    slower = document(noisy(3, 1.3, spread=0.01), noisy(4, 5.0, spread=0.01))
    assert [one.verdict for one in compare.stored(slower, old)] == ["slower"]
    # The baseline, whose code is the same, became slower as well: so did the machine.
    machine = document(noisy(3, 1.3, spread=0.01), noisy(4, 6.5, spread=0.01))
    assert [one.verdict for one in compare.stored(machine, old)] == ["within the noise"]
    # Nothing to tell the machine by, and nothing in common.
    alone = document(noisy(3, 1.3), [])
    del alone["rows"][0]["contestants"]["eager"]
    assert [one.verdict for one in compare.stored(alone, old)] == ["within the noise"]
    assert compare.stored({"rows": []}, old) == []
    assert json.dumps(compare.as_rows(compare.stored(alone, old)), allow_nan=False)


def test_a_baseline_that_is_none(tmp_path):
    path = tmp_path / "other.json"
    path.write_text("[1, 2]")
    with pytest.raises(InputError, match="not the bench.json of an earlier run"):
        run.read_baseline(str(path))
    assert run.read_baseline("no-such-commit") is None
    with (
        pytest.raises(ConfigError, match="--baseline no-such-commit"),
        interleave.tree_of("no-such-commit"),
    ):
        pass


@pytest.mark.slow
def test_a_child_measures_the_library_of_its_tree():
    child = interleave.Child(Path(fastalign.__file__).parents[1], "cpu", 1)
    try:
        answer = child.ask(prepare="mahalanobis, forward, 1x32x8x8, float32")
        assert answer["failed"] == []
        for name in answer["ready"]:
            assert child.time(name) > 0
    finally:
        child.close()
