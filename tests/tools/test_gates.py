"""The gates of gpu-check on made-up tables: which two times are compared, and with what verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gpucheck import gates, report

COPY = 4e12
BIG = [8, 64, 128, 128]


def row(op="dense_similarity", dtype="float32", *, cuda=None, triton=None, **more):
    times = {"fastalign/cuda": cuda, "fastalign/triton": triton}
    entries = {name: {"ms": 9.0, "graph_ms": ms} for name, ms in times.items() if ms is not None}
    found = {
        "op": op,
        "work": "loss + gradient",
        "mode": "both",
        "shape": BIG,
        "dtype": dtype,
        "layout": "contiguous",
        "storage": "float32",
        "bytes": 100_000_000 if dtype == "float32" else 50_000_000,
        "contestants": entries,
    }
    found |= more
    return {"case": f"{op}, {found['dtype']}, {found['storage']}"} | found


def of_bits(*rows, copy=COPY):
    return [
        (gate["case"], gate["contestant"], gate["measured"], gate["limit"], gate["passed"])
        for gate in gates.judged(rows, copy)
        if gate["gate"].startswith("16")
    ]


@pytest.mark.parametrize(("half", "passed"), [(0.065, True), (0.066, False), (0.1, False)])
def test_half_the_bytes_take_at_most_065_of_the_time(half, passed):
    (found,) = of_bits(row(cuda=0.1), row(dtype="bfloat16", cuda=half))
    assert found == (
        "dense_similarity, bfloat16, float32",
        "fastalign/cuda",
        round(half / 0.1, 3),
        0.65,
        passed,
    )


def test_both_backends_and_both_halves_are_held_against_their_own_float32():
    rows = row(cuda=0.1, triton=0.2), row(dtype="float16", cuda=0.06, triton=0.15)
    assert [(name, ok) for _, name, *_, ok in of_bits(*rows)] == [
        ("fastalign/cuda", True),
        ("fastalign/triton", False),
    ]


def test_warps_both_ways_may_take_three_quarters_and_factors_count_as_bytes():
    warps = [
        row("warp_affine", dtype, cuda=ms) for dtype, ms in (("float32", 1), ("float16", 0.74))
    ]
    assert [found[3:] for found in of_bits(*warps)] == [(0.75, True)]
    stored = [
        row("mahalanobis", cuda=ms, storage=storage, shape=[1, 100, 64, 64])
        for storage, ms in (("float32", 1.0), ("bfloat16", 0.6), ("rank 32 float16", 0.1))
    ]
    # A rank has a float32 of its own, which is not here.
    assert [found[:3] for found in of_bits(*stored)] == [
        ("mahalanobis, float32, bfloat16", "fastalign/cuda", 0.6)
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"op": "pairwise_distance", "shape": [32, 3, 224, 224]},  # arithmetic: all pairs
        {"op": "another", "shape": [32, 1, 64, 64]},  # of which nothing is known
        {"bytes": 300_000},  # over before the first wave is full
        {"layout": "channels_last"},  # nothing to hold it against
        {"failed": "no memory"},
    ],
    ids=["arithmetic", "unknown", "small", "alone", "failed"],
)
def test_where_memory_is_not_the_limit_nothing_is_asked(change):
    shared = {key: value for key, value in change.items() if key not in ("layout", "failed")}
    assert of_bits(row(cuda=0.1, **shared), row(dtype="bfloat16", cuda=0.1, **change)) == []


def test_without_the_bandwidth_of_a_copy_nothing_is_asked_of_bits():
    assert of_bits(row(cuda=0.1), row(dtype="bfloat16", cuda=0.1), copy=None) == []


@pytest.mark.parametrize(
    ("cuda", "automatic", "passed"),
    [(0.105, "cuda", True), (0.106, "cuda", False), (0.2, "triton", True), (0.2, None, False)],
)
def test_slower_than_triton_only_where_that_is_chosen(cuda, automatic, passed):
    more = {"automatic": automatic} if automatic else {}
    (gate,) = gates.judged([row(cuda=cuda, triton=0.1, **more)], COPY)
    assert (gate["gate"], gate["passed"]) == ("CUDA C++ to Triton", passed)
    assert gate["note"] == (f"automatic: {automatic}" if automatic else "")


def test_a_backend_without_a_figure_is_not_compared():
    wrong = row(cuda=0.1, triton=0.1)
    wrong["contestants"]["fastalign/triton"] = {"failed": "off by 3"}
    assert gates.judged([wrong, row(cuda=0.1)], COPY) == []


def test_the_report_shows_all_gates_failures_first(tmp_path):
    rows = [row(cuda=0.2, triton=0.1, automatic="cuda"), row("warp_affine", cuda=0.1, triton=0.2)]
    step = {"state": "failed", "cases": 2, "gates": gates.judged(rows, COPY)}
    document = {"environment": {}, "finished": True, "steps": {"benchmarks": step}}
    text = report.markdown(document, tmp_path)
    shown = text.partition("## Gates")[2]
    assert shown.index("**failed**, automatic: cuda") < shown.index("| passed |")
    assert "2 cases, 0 contestants without figure, 1 of 2 gates passed" in text
    assert "GATE CUDA C++ to Triton: dense_similarity, float32, float32" in report.terminal(
        document, tmp_path
    )


def test_the_stored_run_of_the_h200_is_held_against_the_gates():
    """What is known of it: bfloat16 bought nothing, and Triton was faster on three of four maps."""
    path = Path(__file__).parents[2] / "benchmarks" / "results" / "gpu" / "nvidia-h200.json"
    document = json.loads(path.read_text())["steps"]["benchmarks"]["document"]
    found = gates.judged(document["rows"], document["copy_bytes_per_second"])
    shut = [(gate["gate"], gate["case"]) for gate in found if not gate["passed"]]
    similarity = [
        case
        for gate, case in shut
        if "Triton" in gate
        and case.endswith(", float32")
        and case.startswith("dense_similarity")
        and "4x32" not in case
    ]
    assert len(similarity) == 3
    assert all(not gate["passed"] for gate in found if gate["gate"].startswith("16"))
