"""The benchmarks' own logic: cases, baselines that compute the same, the gate, the tables."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from opbench import cases, gate, report, timing  # noqa: E402
from opbench.cases import CASES, GOALS  # noqa: E402
from opbench.measure import contestants, measure  # noqa: E402

TINY = {
    "dense_similarity": (3, 5, 4, 6),
    "warp_affine": (2, 3, 9, 7),
    "pairwise_distance": (6, 3, 4, 5),
    "mahalanobis": (2, 7, 3, 4),
}
# One case of each op, work, dtype, layout and storage.
KINDS = {
    (c.op, c.work, c.dtype, c.layout, c.storage): replace(c, shape=TINY[c.op], small=True)
    for c in CASES
}


@pytest.fixture(autouse=True)
def nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(cases, "_compiled", lambda function: function)


def test_names_tell_cases_apart_and_every_goal_has_one():
    assert len({case.name for case in CASES}) == len(CASES)
    for goal in GOALS:
        assert any(goal.covers(case) for case in CASES)
        case = next(case for case in CASES if goal.covers(case))
        assert set(goal.against) <= set(case.baselines())


@pytest.mark.parametrize("case", KINDS.values(), ids=lambda case: case.name)
def test_baselines_compute_what_the_op_computes(case):
    inputs = case.inputs("cpu")
    against = gate.yardstick(case, inputs)
    for name, work in contestants(case, ["reference"]).items():
        if name != "memcpy":
            assert gate.judge(work(*inputs), against, name != "fastalign/reference")[1] is None


def test_the_gate_sees_what_is_wrong():
    case = KINDS["warp_affine", cases.BOTH, torch.float32, cases.CONTIGUOUS, torch.float32]
    inputs = case.inputs("cpu")
    against = gate.yardstick(case, inputs)
    results = case.ours("reference")(*inputs)
    assert gate.judge(results, against, False)[1] is None
    for index in range(len(results)):
        for spoil in (lambda x: x * 1.001, lambda x: x * float("nan"), lambda x: x[:1]):
            spoiled = list(results)
            spoiled[index] = spoil(results[index])
            assert f"result {index}" in gate.judge(tuple(spoiled), against, False)[1]
    assert gate.judge(results[:-1], against, False)[1] == "2 results, expected 3"


def test_bytes_that_have_to_be_moved():
    case = CASES[0]
    assert case.bytes() == 3 * 8 * 64 * 128 * 128 * 4
    whole, half = (
        next(c for c in CASES if c.op == "mahalanobis" and c.storage == storage and not c.small)
        for storage in (torch.float32, torch.bfloat16)
    )
    assert whole.bytes() - half.bytes() == 64 * 64 * 5050 * 2


@pytest.mark.slow
def test_a_case_on_the_cpu_from_inputs_to_tables(tmp_path, monkeypatch):
    case = next(iter(KINDS.values()))
    monkeypatch.setattr(report, "CASES", [*CASES, case])
    row = measure(case, "cpu", ["reference"], 0.01)
    broken = measure(case, "cpu", ["triton"], 0.01)
    entry = row["contestants"]["fastalign/reference"]
    assert entry["ms"] > 0 and entry["back_to_back_us"] > 0 and max(entry["errors"]) < 1e-5
    assert "Triton" in broken["contestants"]["fastalign/triton"]["failed"]
    document = {
        "device": "a machine",
        "device_type": "cpu",
        "versions": {"torch": "2"},
        "copy_bytes_per_second": 1e9,
        "rows": [row, broken],
    }
    report.write(document, tmp_path, "ops")
    assert json.loads((tmp_path / "ops.json").read_text()) == document
    text = (tmp_path / "ops.md").read_text()
    assert text.index("## Without a figure") < text.index("## Times")
    assert "**no figure**" in text
    assert (tmp_path / "ops.csv").read_text().count("\n") == 1 + 2 * 5


def row_of(case, **times):
    entries = {name.replace("_", "/"): {"ms": ms, "errors": [0.0]} for name, ms in times.items()}
    return {
        **{"case": case.name, "op": case.op, "work": case.work, "shape": list(case.shape)},
        **{"dtype": "float32", "layout": "contiguous", "storage": "float32", "small": False},
        **{"bytes": case.bytes(), "contestants": entries},
    }


def test_required_ratios_are_means_over_the_cases_of_an_op():
    goal_cases = [case for case in CASES if GOALS[0].covers(case)]
    rows = [
        row_of(case, fastalign_cpu=1.0, compiled=ratio, loop=30.0, memcpy=0.5)
        for case, ratio in zip(goal_cases, (2.0, 8.0, 4.0, 4.0), strict=True)
    ]
    lines = report.goals_table(rows, cache=0, threads=2)
    assert "| 4.00x | 2.00, 8.00, 4.00, 4.00 | reached |" in lines[2]
    assert "**short**" in lines[3]
    assert "<= 2.5x its time | 2.00x" in lines[4] and "reached" in lines[4]
    # Data that fit the cache do not count for the copy.
    assert len(report.goals_table(rows, cache=1 << 40, threads=2)) == len(lines) - 1


def test_both_gpu_backends_are_compared():
    case = CASES[0]
    rows = [row_of(case, fastalign_cuda=1.0, fastalign_triton=1.5, compiled=3.0)]
    document = {"device": "x", "device_type": "cuda", "versions": {}, "rows": rows}
    text = report.markdown(document)
    assert "triton takes 1.50x the time of cuda" in text and "3x" in text and "2x" in text


def test_slow_works_take_part_in_fewer_rounds():
    assert timing.rounds_for(1000.0, 0.5, 3, 60) == 3
    assert timing.rounds_for(0.001, 0.5, 3, 60) == 60
    calls = {"a": 0, "b": 0}

    def count(name):
        calls[name] += 1

    times = timing.on_cpu({n: lambda n=n: count(n) for n in calls}, 0.01)
    assert set(times) == {"a", "b"} and min(calls.values()) > 3
