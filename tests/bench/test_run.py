"""A whole run with invented measurements: every file is there whatever was measured, no contestant
takes the time of the others, and what was taken under load is marked everywhere."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from itertools import product

import pytest

from fastalign.bench import (
    budget,
    measure,
    models,
    oprun,
    outcomes,
    run,
    setting,
    summary,
    tables,
    timing,
)
from fastalign.bench.cases import QUICK
from fastalign.load import Load

FILES = {"bench.json", "ops.csv", "models.csv", "report.html"}
QUIET, BUSY = Load(0.5, 2, 0.01), Load(9.0, 2, 0.6)
FIGURES = {"fit_s": 1.0, "latency_p50_ms": 5.0, "latency_p95_ms": 6.0, "images_per_second": 2.0}
FIGURES |= {"peak_bytes": None, "stored_bytes": 7, "image_auroc": 0.9, "pixel_auroc": 0.9}
FIGURES |= {"aupro_30": 0.8, "train_images": 23}
FIGURES_OR_NONE = {
    "measured": FIGURES | {"load": QUIET.to_json()},
    "failed": {"failed": "RuntimeError: no"},
    "absent": {"absent": "anomalib is not installed"},
    "out of time": {"out_of_time": "did not end within 60 s"},
}


class Clock:
    """Told how long everything takes."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Copy:
    def __init__(self, device):
        pass

    def bandwidth(self, seconds=0.1):
        return 5e10


@pytest.fixture(autouse=True)
def nothing_is_measured(monkeypatch):
    monkeypatch.setattr(timing, "Copy", Copy)
    monkeypatch.setattr(setting, "load_before", lambda: QUIET)
    monkeypatch.setattr(timing.gc, "collect", lambda: 0)


def row_of(job, found):
    jitter = models.Jitter(job.degrees, job.shift).label
    row = {"part": job.part, "contestant": job.contestant, "image_size": job.size, "pose": jitter}
    return row | found


def op_row(case, kind, load=QUIET):
    row = measure.describe(case) | {"load": load.to_json(), "copy_bytes_per_second": 4e10}
    entry = {
        "measured": timing.summary([1.0, 2.0, 3.0]) | {"errors": [0.0]},
        "failed": {"failed": "wrong: <b>"},
        "absent": {"absent": "kornia is not installed"},
        "out of time": {"out_of_time": "not begun"},
    }[kind]
    names = ("fastalign/cpu", "compiled", "kornia")
    return row | {"contestants": {name: dict(entry) for name in names}}


@pytest.mark.parametrize(
    ("parts", "kind"), list(product((("models",), ("ops",), ("ops", "models")), FIGURES_OR_NONE))
)
def test_every_file_is_written_whatever_was_measured(parts, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(
        models, "in_child", lambda job, data, limit: row_of(job, FIGURES_OR_NONE[kind])
    )
    monkeypatch.setattr(oprun, "measure", lambda case, *a, **k: op_row(case, kind))
    monkeypatch.setattr(run.plots, "write", lambda document, out: True)
    said = []
    document = run.run(tmp_path, tmp_path, parts=parts, note=said.append)
    written = {path.name for path in tmp_path.iterdir()}
    assert written >= FILES and not [name for name in written if name.endswith(".part")]
    assert json.loads((tmp_path / "bench.json").read_text())["command"] == document["command"]
    page = (tmp_path / "report.html").read_text()
    shown = {
        "measured": "Models" if "models" in parts else "All contestants",
        "failed": "no figure",
        "absent": "is not installed",
        "out of time": "out of time",
    }
    for words in (shown[kind], document["commit"] or "unknown", "load average 0.5"):
        assert words in page
    found = len(document["models"]) + len(document["left_out"])
    assert found == len(models.QUICK) * ("models" in parts)
    assert len(document["rows"]) == len(QUICK) * ("ops" in parts)


def test_an_op_that_fails_as_a_whole_and_a_run_of_nothing_are_pages_too(tmp_path, monkeypatch):
    def broken(case, *arguments, **options):
        raise RuntimeError("no memory for <this>")

    monkeypatch.setattr(oprun, "measure", broken)
    said = []
    run.run(tmp_path, tmp_path, parts=("ops",), note=said.append)
    assert "no memory for &lt;this&gt;" in (tmp_path / "report.html").read_text()
    assert any("FAILED RuntimeError: no memory" in line for line in said)
    run.write(setting.document("cpu", {}), tmp_path)
    pytest.importorskip("matplotlib")
    assert {path.name for path in tmp_path.iterdir()} >= FILES | {"ops.png", "models.png"}


def test_rows_under_load_are_marked_on_every_page(tmp_path, monkeypatch):
    monkeypatch.setattr(setting, "load_before", lambda: BUSY)
    monkeypatch.setattr(run.plots, "write", lambda document, out: True)
    found = FIGURES | {"load": BUSY.to_json()}
    monkeypatch.setattr(models, "in_child", lambda job, data, limit: row_of(job, found))
    monkeypatch.setattr(oprun, "measure", lambda case, *a, **k: op_row(case, "measured", BUSY))
    said = []
    document = run.run(tmp_path, tmp_path, note=said.append)
    assert said[0].startswith("this machine is busy (load average 9.0")
    told = [line for line in said if "under load: load average 9.0 on 2 cores" in line]
    assert len(told) >= len(QUICK) + len(models.QUICK)
    for name in ("ops.csv", "models.csv"):
        lines = list(csv.DictReader(io.StringIO((tmp_path / name).read_text())))
        assert lines and {line["under_load"] for line in lines} == {"yes"}
        assert {line["command"] for line in lines} == {document["command"]}
    page, text = (tmp_path / "report.html").read_text(), summary.markdown(document)
    count = len(QUICK) + len(models.QUICK)
    for words in (page, text):
        assert "(under load)" in words and f"{count} of {count} rows taken under load" in words
        assert "load average 9.0" in words


def case_of(op="warp_affine"):
    return next(case for case in QUICK if case.op == op)


class Meter:
    loads: list[Load] = []

    def read(self):
        return Meter.loads.pop(0) if len(Meter.loads) > 1 else Meter.loads[0]


def small_measure(monkeypatch, works, clock, case=None, **options):
    case = case or case_of()
    monkeypatch.setattr(measure, "contestants", lambda case, backends: works)
    monkeypatch.setattr(type(case), "inputs", lambda *arguments: ())
    monkeypatch.setattr(
        measure.gate, "yardstick", lambda *arguments: measure.gate.Yardstick((), [])
    )
    monkeypatch.setattr(measure.memory, "peak_bytes", lambda *arguments: 1)
    monkeypatch.setattr(measure, "fresh_compiler", lambda: None)
    return measure.measure(case, "cpu", ["cpu"], 0.1, clock, **options)


def taking(clock, seconds, first=None):
    """A work of so many seconds by the clock."""
    calls = []

    def work():
        calls.append(0)
        clock.now += first if first is not None and len(calls) == 1 else seconds
        return ()

    work.calls = calls
    return work


def test_times_under_load_are_taken_again_and_the_quietest_stay(monkeypatch):
    monkeypatch.setattr(measure, "LoadMeter", Meter)
    for loads, repeats, kept in (
        ([QUIET], 0, QUIET),
        ([BUSY, QUIET], 1, QUIET),
        ([Load(9, 2, 0.6), Load(9, 2, 0.3), Load(9, 2, 0.4)], 1, Load(9, 2, 0.3)),
    ):
        Meter.loads = list(loads)
        clock = Clock()
        row = small_measure(monkeypatch, {"fastalign/cpu": taking(clock, 0.001)}, clock)
        assert row["load"] == kept.to_json() and row["repeats"] == repeats
    Meter.loads, clock = [BUSY], Clock()
    row = small_measure(monkeypatch, {"eager": taking(clock, 0.001)}, clock, budget=0.01)
    assert row["repeats"] == 0 and row["load"]["busy"]


def test_a_slow_contestant_has_fewer_samples_or_none_and_the_others_theirs(monkeypatch):
    monkeypatch.setattr(measure, "LoadMeter", Meter)
    Meter.loads, clock = [QUIET], Clock()
    works = {
        "fastalign/cpu": taking(clock, 0.001),
        "eager": taking(clock, 0.5),
        "kornia": taking(clock, 30.0),
        "compiled": taking(clock, 0.002, first=20.0),
    }
    monkeypatch.setattr(measure.libraries, "load", lambda module: None)
    row = small_measure(monkeypatch, works, clock, budget=8.0)
    found = row["contestants"]
    assert len(found["fastalign/cpu"]["samples"]) == 60
    assert 1 <= len(found["eager"]["samples"]) < 3 and len(works["eager"].calls) <= 4
    assert found["kornia"]["out_of_time"] == "a call took 30 s, its share were 2 s"
    assert len(works["kornia"].calls) == 1 and "ms" not in found["kornia"]
    # What compiling takes says nothing of a call.
    assert found["compiled"]["ms"] == pytest.approx(2) and len(found["compiled"]["samples"]) > 20
    assert "kornia: out of time" not in outcomes.failures([row])
    assert outcomes.out_of_time([row]) and "out of time: kornia" in summary.line(row, None)


def test_small_maps_have_one_figure(monkeypatch):
    """The table of small maps and that of all times show the same medians."""
    monkeypatch.setattr(measure, "LoadMeter", Meter)
    Meter.loads, clock = [QUIET], Clock()
    works = {"fastalign/cpu": taking(clock, 0.001), "compiled": taking(clock, 0.002)}
    row = small_measure(monkeypatch, works, clock, case=replace(case_of(), small=True))
    assert row["calls_per_sample"] == timing.CALLS
    # One call of the gate, and samples of so many calls each.
    assert len(works["compiled"].calls) % timing.CALLS == 1
    row["contestants"]["fastalign/cpu"]["errors"] = [0.0]
    times = tables.cases_table([row], None, cuda=False)[-1]
    calls = tables.overhead_table([row])[-2:]
    assert "| 2x |" in times and "| 1 |" in times
    assert "| fastalign/cpu | 1000.0 |" in calls[0] and "| compiled | 2000.0 |" in calls[1]


def fake_cases(monkeypatch, seconds, clock):
    """Rows of the quick cases, each of so many seconds by the clock; what was asked for."""
    asked = []

    def fake(case, device, backends, of, *, copy, budget, without):
        taken = seconds(case, without)
        clock.now += taken
        asked.append((case, dict(without), budget))
        row = op_row(case, "measured")
        row["contestants"] |= {name: {"out_of_time": why} for name, why in without.items()}
        if taken > 20:
            row["contestants"]["kornia"] = {"out_of_time": "slow", "call_s": taken}
        return row

    monkeypatch.setattr(oprun, "measure", fake)
    return asked


def run_ops(clock, limit, compile_last):
    document = setting.document("cpu", {})
    arguments = (document, QUICK, QUICK, ["cpu"], 0.1, limit, lambda row: None, clock)
    oprun.run_cases(*arguments, compile_last=compile_last)
    return document


def test_every_case_is_measured_before_anything_is_compiled(monkeypatch):
    clock = Clock()
    asked = fake_cases(monkeypatch, lambda case, without: 1 if without else 15, clock)
    document = run_ops(clock, 60.0, compile_last=True)
    assert {row["case"] for row in document["rows"]} == {case.name for case in QUICK}
    assert document["left_out"] == []
    ops = [case.op for case, _, _ in asked[: len(QUICK)]]
    assert len(set(ops[:4])) == 4 and all("compiled" in without for _, without, _ in asked[:8])
    # 52 seconds are left for whole rows of 15.
    assert len(asked) == len(QUICK) + 4
    places = [[case.name for case in QUICK].index(row["case"]) for row in document["rows"]]
    assert places == sorted(places)


def test_one_slow_contestant_does_not_take_the_budget(monkeypatch):
    clock = Clock()

    def seconds(case, without):
        return 30.0 if case.op == "warp_affine" and "kornia" not in without else 1.0

    asked = fake_cases(monkeypatch, seconds, clock)
    document = run_ops(clock, 60.0, compile_last=True)
    assert len(document["rows"]) == len(QUICK) and document["left_out"] == []
    assert clock.now < 60
    warps = [without for case, without, _ in asked if case.op == "warp_affine"]
    assert sum("kornia" not in without for without in warps) == 1


def test_without_time_every_op_still_has_its_first_case(monkeypatch):
    clock = Clock()
    fake_cases(monkeypatch, lambda case, without: 100.0, clock)
    document = run_ops(clock, 10.0, compile_last=False)
    assert {row["op"] for row in document["rows"]} == {case.op for case in QUICK}
    ops = len({case.op for case in QUICK})
    assert len(document["rows"]) == ops and len(document["left_out"]) == len(QUICK) - ops


def jobs_run(seconds, limit=60.0, whole=60.0):
    clock, asked = Clock(), []

    def one(job, most):
        asked.append(job.name)
        taken = seconds(job)
        clock.now += min(taken, most)
        late = {"out_of_time": f"did not end within {most:.0f} s"}
        return row_of(job, late if taken > most else FIGURES)

    document = setting.document("cpu", {})
    models.run_jobs(document, models.QUICK, one, whole, limit, lambda job, row: None, clock)
    return document, asked


def test_every_model_first_and_one_that_hangs_costs_the_others_nothing():
    document, asked = jobs_run(lambda job: 1000.0 if job.contestant == "fastalign" else 5.0)
    assert [name.partition(", 128")[0] for name in asked[:4]] == [
        f"model: {name}" for name in models.NAMES
    ]
    ended = [row for row in document["models"] if "fit_s" in row]
    others = [job for job in models.QUICK if job.contestant != "fastalign"]
    assert len(ended) == len(others)
    # It is not begun a second time.
    assert document["left_out"] == [
        job.name for job in models.QUICK if job.contestant == "fastalign" and job.part != "model"
    ]


def test_a_slow_machine_still_has_a_row_of_every_model():
    document, _ = jobs_run(lambda job: 50.0)
    assert {row["contestant"] for row in document["models"]} == set(models.NAMES)
    assert all("fit_s" in row for row in document["models"])
    assert len(document["models"]) + len(document["left_out"]) == len(models.QUICK)


def test_what_a_command_is_called():
    assert setting.command(["/usr/bin/fastalign", "bench", "--out", "a b"]) == (
        "fastalign bench --out 'a b'"
    )
    assert setting.command(["/x/fastalign/__main__.py", "bench"]) == "python -m fastalign bench"
    root = setting.repository()
    script = str(root / "benchmarks" / "ops.py") if root else "benchmarks/ops.py"
    expected = "python benchmarks/ops.py --list" if root else "python ops.py --list"
    assert setting.command([script, "--list"]) == expected


def test_shares_and_turns():
    assert budget.in_turn("aabbbc", lambda letter: letter) == list("abcabb")
    clock = Clock()
    time = budget.Budget(10.0, 4, clock)
    assert time.share == 2.5

    def work():
        clock.now += 7

    time.spend(work, 2.5)
    assert (time.left, time.share) == (7.5, 2.5)
    time.skip()
    assert time.share == 3.75
