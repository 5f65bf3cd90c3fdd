"""The GPU check's own logic, which needs no GPU: time, crashes, summaries, reports."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import gpu_check
import pytest
from gpucheck import environment, records, report, sanitizer, steps, suite
from gpucheck.jobs import Job, run
from gpucheck.steps import STEPS, Context

RACE = """
========= COMPUTE-SANITIZER
calls: 12
========= Error: Race reported between Read access at dot(float*)+0x1d0
=========     and Write access at dot(float*)+0x1f0 [1916 hazards]
=========
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""
BOUNDS = """
========= Invalid __global__ read of size 4 bytes
=========     at warp(const float*)+0x220
=========     by thread (3,0,0) in block (0,0,0)
========= Invalid __global__ read of size 4 bytes
=========     at warp(const float*)+0x220
=========     by thread (4,0,0) in block (0,0,0)
calls: 7
========= ERROR SUMMARY: 2 errors
"""


def python(name, code, limit=20.0, **options):
    return Job(name, [sys.executable, "-c", code], limit, **options)


def test_processes_run_side_by_side_and_end_in_time(tmp_path, monkeypatch):
    """The one that takes too long is ended with what it started; the other keeps its output."""
    # Of time to say what they have these need none.
    monkeypatch.setattr("gpucheck.jobs._GRACE", 0.5)
    child = tmp_path / "child"
    hang = (
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(child)!r}, 'w').write(str(p.pid))\n"
        "time.sleep(60)"
    )
    jobs = [python("hangs", hang, limit=2), python("works", "print('done')")]
    saves = []
    run(jobs, tmp_path, lambda: saves.append(None))
    hangs, works = jobs
    assert hangs.stopped and not works.stopped and saves
    assert works.status == 0 and works.tail() == "done"
    assert hangs.seconds < 20
    status = f"/proc/{child.read_text()}/stat"
    time.sleep(0.2)
    try:
        assert open(status).read().split()[2] == "Z"
    except FileNotFoundError:
        pass


def test_a_missing_program_is_a_failure_and_no_crash(tmp_path):
    job = Job("absent", [str(tmp_path / "nowhere")], 5)
    run([job], tmp_path, lambda: None)
    assert job.status == 127 and not job.running


CRASHES = """
import os, sys
from pathlib import Path
from gpucheck.records import Skip, run_checks

def skip():
    raise Skip("not here")

def die():
    os._exit(75)

def wrong():
    raise ValueError("off by 3\\nsecond line\\nthird")

checks = {"first": lambda: {"n": 1}, "crash": die, "skip": skip, "wrong": wrong}
checks["last"] = lambda: None
run_checks(checks, Path(sys.argv[1]))
"""


def test_checks_go_on_behind_the_one_that_ended_the_process(tmp_path):
    path = tmp_path / "lines.jsonl"
    command = [sys.executable, "-c", CRASHES, str(path)]
    env = {"PYTHONPATH": str(gpu_check.inplace.ROOT / "tools")}
    job = Job("checks", command, 60, env, again={records.AGAIN: 3})
    run([job], tmp_path, lambda: None)
    assert job.status == 0
    results = {line["name"]: line for line in records.finished(path, crashed=True)}
    states = {name: line["state"] for name, line in results.items()}
    assert states == {
        "first": "passed",
        "crash": "failed",
        "skip": "skipped",
        "wrong": "failed",
        "last": "passed",
    }
    assert results["first"]["detail"] == {"n": 1}
    assert results["wrong"]["error"] == "ValueError: off by 3 / second line"
    assert "crash" not in {line["name"] for line in records.finished(path, crashed=False)}


def test_half_a_line_is_left_out(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"name": "a", "state": "passed"}\n{"name": "b", "st')
    assert [line["name"] for line in records.read(path)] == ["a"]


TESTS = """
import pytest
from gpucheck import records, suite

records._context_lost = lambda: True

@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("case", ["warp_affine_backward(zeros)", "mahalanobis"])
@pytest.mark.parametrize("dtype", ["float16"])
def test_float16(dtype, case, number):
    if case == "mahalanobis":
        pytest.skip("too large")
    if number == 1:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    assert number != 2, "off by 0.5"
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_results_of_the_suite_are_kept_as_they_come(tmp_path, workers):
    """With xdist also those behind an error that takes the CUDA context with it."""
    folder = tmp_path / "tests" / "ops"
    folder.mkdir(parents=True)
    (folder / "test_some.py").write_text(TESTS)
    stream = tmp_path / "stream.jsonl"
    command = suite.command(sys.executable, "test", "float16", workers)
    command[command.index("-k") + 1] = "test_float16"
    env = {**suite.environment(stream, "cuda"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    found = suite.summary(stream)
    counts = [found[key] for key in ("collected", "passed", "failed", "skipped")]
    assert counts == [8, 2, 2, 4], done.stdout
    assert found["ops"]["warp_affine_backward"] == {"passed": 2, "failed": 2}
    assert found["dtypes"] == {"float16": {"passed": 2, "failed": 2, "skipped": 4}}
    assert set(found["skip_reasons"]) == {"Skipped: too large"}
    errors = sorted(line["error"] for line in found["failures"])
    assert "illegal memory access" in errors[1] and "off by 0.5" in errors[0]


def test_reports_of_compute_sanitizer():
    race, bounds = sanitizer.summary(RACE), sanitizer.summary(BOUNDS)
    assert (race["total"], race["calls"], bounds["total"]) == (1, 12, 2)
    assert bounds["findings"] == ["2x Invalid __global__ read of size 4 bytes warp(const float*)+#"]
    assert race["findings"][0].startswith("1x Error: Race reported between Read access at dot")
    assert sanitizer.summary("killed")["total"] is None
    clean = "calls: 3\n========= ERROR SUMMARY: 0 errors\n"
    assert sanitizer.summary(clean) == {"total": 0, "calls": 3, "findings": []}


def test_the_choice_of_steps():
    names = lambda words: [step.name for step in gpu_check.choose(words)]  # noqa: E731
    assert names("") == [name for name in STEPS if name not in ("arena", "demo")]
    assert names("suite,build") == ["build", "suite"]
    assert "demo" in names("+demo") and "sanitizer" not in names("-sanitizer")
    with pytest.raises(SystemExit, match="no step 'nothing'"):
        gpu_check.choose("nothing")


def test_names_of_devices():
    assert gpu_check.slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    assert environment.architecture({"gpu": {"compute_cap": "9.0"}}) == "90"
    assert environment.architecture({"gpu": {}}) is None


def context(tmp_path, budget=600.0, device="cpu"):
    return Context(
        python=sys.executable,
        device=device,
        backends=["cpu"] if device == "cpu" else ["cuda", "triton"],
        scratch=tmp_path,
        cores=16,
        archs="90",
        deadline=time.monotonic() + budget,
        environment={"gpu": {"name": "NVIDIA H100"}, "packages": {}, "cores": 16},
    )


@pytest.mark.parametrize("budget", [150.0, 280.0, 1200.0])
def test_every_step_leaves_time_to_later_ones(budget, tmp_path):
    check = gpu_check.Check(context(tmp_path, budget), gpu_check.choose(""), tmp_path, "x")
    for step in check.chosen:
        allowed = check.time_for(step)
        assert 0 < allowed <= step.limit
        later = {s.group: s.reserve for s in check.chosen if s.group > step.group}
        assert allowed <= max(budget - sum(later.values()), step.reserve / 2) + 1


def test_all_commands_of_a_gpu_machine_can_be_made(tmp_path, monkeypatch):
    monkeypatch.setattr(steps.shutil, "which", lambda name: f"bin/{name}")
    made = {step.name: step.jobs(context(tmp_path, device="cuda"), 100) for step in STEPS.values()}
    names = {f"{kind}-{name}" for kind in ("suite", "properties") for name in ("cuda", "triton")}
    assert {job.name for job in made["suite"]} == names
    assert sum("-n" in job.command for job in made["suite"]) == 2
    assert made["build"][0].env["TORCH_CUDA_ARCH_LIST"] == "90"
    assert len(made["sanitizer"]) == 2 * len(suite.STEMS) + 3
    logs = [job.name for of_step in made.values() for job in of_step]
    assert len(logs) == len(set(logs))
    for step in STEPS.values():
        # Also before anything was written.
        assert step.collect(context(tmp_path, device="cuda"), made[step.name])["state"]


def failing_document():
    failures = [
        {"name": f"t{n}", "state": "failed", "error": f"AssertionError: off by 0.{n}"}
        for n in range(1, 4)
    ]
    counts = {"collected": 5, "passed": 2, "failed": 3, "skipped": 0}
    counts |= {"ops": {"mahalanobis": {"passed": 2, "failed": 3}}, "dtypes": {}}
    counts |= {"skip_reasons": {}, "failures": failures}
    entry = {"passed": 1, "failed": 1, "skipped": 0, "skips": [], "unfinished": ["above 2^31: x"]}
    entry |= {"failures": [{"name": "CUDA graph: y", "error": "RuntimeError: no"}]}
    entry |= {"names": {"CUDA graph: y": "failed", "CUDA graph: z": "passed"}}
    return {
        "environment": {"gpu": {"name": "NVIDIA H100"}, "packages": {}, "cores": 16},
        "finished": False,
        "steps": {
            "build": {"state": "failed", "error": "error: no nvcc", "architectures": "90"},
            "suite": {"state": "failed", "seconds": 3.0, "backends": {"cuda": counts}},
            "behaviour": {"state": "failed", "processes": {"behaviour-cuda": entry}},
            "benchmarks": {"state": "out of time", "note": "not begun", "cases": 0},
        },
    }


def test_failures_of_one_cause_are_one_line(tmp_path):
    document = failing_document()
    first, second = report.groups(document)
    assert (first["count"], first["where"], second["count"]) == (3, "suite cuda", 1)
    text = report.markdown(document, tmp_path)
    assert text.index("## What could not be done") < text.index("## Failures")
    assert text.index("## Failures") < text.index("## Steps")
    assert "- 3x suite cuda: `AssertionError: off by 0.1` (t1)" in text
    assert "| mahalanobis | 2 passed, **3 failed** |" in text
    assert "| CUDA graph | 1 passed, 1 **failed** |" in text
    assert "time was over in: above 2^31: x" in text
    short = report.terminal(document, tmp_path, characters=300)
    assert len(short) < 400 and short.endswith("(cut; the files have all)")


@pytest.mark.slow
def test_the_whole_check_without_a_gpu(tmp_path):
    """One step on the CPU, from the command line to the files."""
    script = gpu_check.inplace.ROOT / "tools" / "gpu_check.py"
    command = [sys.executable, str(script), "--device", "cpu", "--steps", "backends"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], capture_output=True, text=True, check=False
    )
    document = json.loads((tmp_path / "cpu.json").read_text())
    assert document["finished"] and set(document["steps"]) == {"backends"}
    assert document["steps"]["backends"]["state"] in done.stdout
    assert (tmp_path / "cpu.md").read_text().startswith("# GPU check")


def test_no_result_says_where_the_checkout_lies_and_kept_steps_stay(tmp_path):
    where = f"python {gpu_check.inplace.ROOT}/benchmarks/ops.py"
    (tmp_path / "ops.csv").write_text(f"command\n{where}\n")
    (tmp_path / "ops.md").write_text(where)
    kept = {"model": {"state": "passed", "text": f"## The model\n\n{where}"}}
    (tmp_path / "x.json").write_text(json.dumps({"steps": kept | {"suite": {"state": "passed"}}}))
    chosen = gpu_check.choose("suite,benchmarks")
    check = gpu_check.Check(context(tmp_path, 60.0), chosen, tmp_path, "x", keep=True)
    assert check.document["steps"] == kept
    check.document["steps"]["benchmarks"] = {"state": "passed", "cases": 1}
    check.save()
    # The log is not committed.
    for end in ("csv", "md", "json"):
        text = (tmp_path / f"x.{end}").read_text()
        assert "./benchmarks/ops.py" in text
        assert str(gpu_check.inplace.ROOT) not in text
    assert "## The model" in (tmp_path / "x.md").read_text()
