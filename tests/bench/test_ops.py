"""The benchmarks' own logic: cases, baselines that compute the same, the gate, the tables."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import replace

import pytest
import torch

from fastalign.bench import gate, outcomes, rows, summary, tables, timing, works
from fastalign.bench.cases import CASES, CONTIGUOUS, GOALS, GRID, QUICK, Case
from fastalign.bench.libraries import Absent
from fastalign.bench.measure import contestants, measure

TINY = {
    "dense_similarity": (3, 5, 4, 6),
    "warp_affine": (2, 3, 9, 7),
    "pairwise_distance": (6, 3, 4, 5),
    "mahalanobis": (2, 7, 3, 4),
    "refine_pose": (2, 1, 12, 12),
    "anomaly_map": (2, 1, 4, 5),
}
# One case of each op, work, dtype, layout and storage.
KINDS = {
    (c.op, c.work, c.dtype, c.layout, c.stored): replace(
        c,
        shape=TINY.get(c.op, (3, 5, 4, 6)),
        small=True,
        rank=None if c.rank is None else 2,
    )
    for c in GRID
}
LIBRARIES = ("kornia", "torchvision", "anomalib")


@pytest.fixture(autouse=True)
def nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(works, "compiled", lambda function: function)


def test_names_tell_cases_apart_and_every_goal_has_one():
    assert len({case.name for case in GRID}) == len(GRID)
    assert {case.op for case in QUICK} == {case.op for case in CASES}
    assert {case.mode for case in QUICK} == {"forward", "backward", "both"}
    for goal in GOALS:
        assert any(goal.covers(case) for case in CASES)
        case = next(case for case in CASES if goal.covers(case))
        assert set(goal.against) <= set(case.baselines())


@pytest.mark.parametrize("case", KINDS.values(), ids=lambda case: case.name)
def test_baselines_compute_what_the_op_computes(case):
    inputs = case.inputs("cpu")
    against = gate.yardstick(case, inputs)
    for name, work in contestants(case, ["reference"]).items():
        if name not in ("memcpy", *LIBRARIES):
            assert gate.judge(work(*inputs), against, name != "fastalign/reference")[1] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "case"),
    [
        ("kornia", Case("warp_affine", works.BOTH, (2, 3, 9, 7))),
        ("kornia", Case("warp_affine", works.FORWARD, (2, 3, 16, 9), torch.bfloat16)),
        ("torchvision", Case("warp_affine", works.FORWARD, (2, 3, 32, 32))),
        ("anomalib", Case("mahalanobis", works.BOTH, (2, 7, 3, 4))),
    ],
)
def test_other_libraries_compute_what_the_op_computes(library, case):
    pytest.importorskip(library)
    inputs = case.inputs("cpu")
    results = case.baselines()[library](*inputs)
    assert gate.judge(results, gate.yardstick(case, inputs), True)[1] is None


def test_a_library_that_is_missing_is_named_and_is_no_failure(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia", None)
    monkeypatch.setitem(sys.modules, "kornia.geometry.transform", None)
    case = KINDS["warp_affine", works.FORWARD, torch.float32, CONTIGUOUS, "float32"]
    with pytest.raises(Absent, match="kornia is not installed: pip install kornia"):
        case.baselines()["kornia"](*case.inputs("cpu"))
    row = measure(case, "cpu", ["reference"], 0.001, repeats=0)
    assert row["contestants"]["kornia"] == {"absent": "kornia is not installed: pip install kornia"}
    assert outcomes.failures([row]) == [] and len(outcomes.absences([row])) == 1


def test_a_wrong_result_gets_no_time(monkeypatch):
    case = KINDS["warp_affine", works.FORWARD, torch.float32, CONTIGUOUS, "float32"]
    monkeypatch.setattr(works.baselines, "grid_warp", lambda x, theta: 1.1 * x)
    row = measure(case, "cpu", ["reference"], 0.001, repeats=0)
    eager = row["contestants"]["eager"]
    assert eager["failed"].startswith("wrong: result 0 off by") and "ms" not in eager
    line = next(line for line in rows.flat(document(row)) if line["contestant"] == "eager")
    assert line["gate"] == eager["failed"] and line["median_ms"] is None


def document(*of_cases):
    return {
        "device": "a machine",
        "device_type": "cpu",
        "threads": 2,
        "commit": "0123",
        "versions": {"torch": "2", "fastalign": "0"},
        "copy_bytes_per_second": 1e9,
        "rows": list(of_cases),
    }


def test_the_gate_sees_what_is_wrong():
    case = KINDS["warp_affine", works.BOTH, torch.float32, CONTIGUOUS, "float32"]
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
        next(c for c in CASES if c.op == "mahalanobis" and c.stored == stored and not c.small)
        for stored in ("float32", "bfloat16")
    )
    assert whole.bytes() - half.bytes() == 64 * 64 * 5050 * 2
    rows = next(c for c in CASES if c.rank is not None)
    packed = replace(rows, rank=None)
    assert packed.bytes() - rows.bytes() == 64 * 64 * (176 * 177 // 2 - 32 * 176) * 4


@pytest.mark.slow
def test_a_case_on_the_cpu_from_inputs_to_tables(tmp_path, monkeypatch):
    case = next(iter(KINDS.values()))
    monkeypatch.setattr(tables, "CASES", [*CASES, case])
    row = measure(case, "cpu", ["reference"], 0.01, repeats=0)
    broken = measure(case, "cpu", ["triton"], 0.01, repeats=0)
    entry = row["contestants"]["fastalign/reference"]
    assert (
        entry["ms"] > 0 and row["calls_per_sample"] == timing.CALLS and max(entry["errors"]) < 1e-5
    )
    assert "Triton" in broken["contestants"]["fastalign/triton"]["failed"]
    run = document(row, broken)
    summary.write(run, tmp_path, "ops")
    assert json.loads((tmp_path / "ops.json").read_text()) == run
    text = (tmp_path / "ops.md").read_text()
    assert text.index("## Without a figure") < text.index("## Times")
    assert "**no figure**" in text
    lines = list(csv.DictReader(io.StringIO((tmp_path / "ops.csv").read_text())))
    assert len(lines) == 2 * 5 and set(lines[0]) == set(rows.COLUMNS)
    first = lines[0]
    assert (first["contestant"], first["gate"], first["mode"]) == (
        "fastalign/reference",
        "passed",
        "both",
    )
    quantiles = [float(first[f"{name}_ms"]) for name in ("p05", "p25", "median", "p75", "p95")]
    assert quantiles == sorted(quantiles) and int(first["calls"]) >= 3
    needed = float(first["bytes"]) / (float(first["median_ms"]) / 1000)
    assert float(first["share_of_copy"]) == pytest.approx(needed / 1e9)
    assert (first["commit"], first["torch"], first["shape"]) == ("0123", "2", "3x5x4x6")


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
    lines = tables.goals_table(rows, cache=0, threads=2)
    assert "| 4.00x | 2.00, 8.00, 4.00, 4.00 | reached |" in lines[2]
    assert "**short**" in lines[3]
    assert "<= 2.5x its time | 2.00x" in lines[4] and "reached" in lines[4]
    # Data that fit the cache do not count for the copy.
    assert len(tables.goals_table(rows, cache=1 << 40, threads=2)) == len(lines) - 1


def test_both_gpu_backends_are_compared():
    case = CASES[0]
    rows = [row_of(case, fastalign_cuda=1.0, fastalign_triton=1.5, compiled=3.0)]
    document = {"device": "x", "device_type": "cuda", "versions": {}, "rows": rows}
    text = summary.markdown(document)
    assert "triton takes 1.50x the time of cuda" in text and "3x" in text and "2x" in text


def test_slow_works_take_part_in_fewer_rounds():
    assert timing.rounds_for(1000.0, 0.5, 3, 60) == 3
    assert timing.rounds_for(0.001, 0.5, 3, 60) == 60
    calls = {"a": 0, "b": 0}
    seconds = iter(range(10**6))

    def count(name):
        calls[name] += 1

    times = timing.on_cpu({n: lambda n=n: count(n) for n in calls}, 0.01, lambda: next(seconds))
    # By this clock every call takes a second.
    assert times == {"a": [1000.0] * 3, "b": [1000.0] * 3} and calls == {"a": 5, "b": 5}


def test_quantiles():
    found = timing.summary([float(n) for n in range(101)])
    assert [found[key] for key in ("ms", "p05", "p25", "p75", "p95")] == [50, 5, 25, 75, 95]
