"""The tests of the ops on one backend: a pytest plugin that keeps results as they come, and their
summary by op.

``pytest -p gpucheck.suite`` with GPUCHECK_STREAM naming the file. An error that takes the CUDA
context with it would fail every later test of the process: a worker of pytest-xdist ends itself
then, and xdist starts another.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

from gpucheck import inplace, records

_STREAM = "GPUCHECK_STREAM"
_LOST = ("CUDA error", "illegal memory access", "misaligned address", "launch failure")
# An op has a declaration and a reference of one name; torch is not asked, it may be missing here.
_DECLARED = inplace.ROOT / "fastalign" / "ops"
STEMS = tuple(
    sorted(
        {p.stem for p in (_DECLARED / "reference").glob("*.py")}
        & {p.stem for p in _DECLARED.glob("*.py") if not p.stem.startswith("_")}
    )
)

_seen: set[str] = set()
_lost = False


def _path() -> Path | None:
    name = os.environ.get(_STREAM)
    return Path(name) if name else None


def _is_worker() -> bool:
    return "PYTEST_XDIST_WORKER" in os.environ


def pytest_collection_finish(session: Any) -> None:
    path = _path()
    if path and not _is_worker() and session.items:
        records.append(path, {"collected": len(session.items)})


class _WithXdist:
    """Hooks that pytest knows only where xdist is installed."""

    @staticmethod
    def pytest_xdist_node_collection_finished(node: Any, ids: list[str]) -> None:
        path = _path()
        if path:
            records.append(path, {"collected": len(ids)})


def pytest_configure(config: Any) -> None:
    if config.pluginmanager.hasplugin("xdist") and not _is_worker():
        config.pluginmanager.register(_WithXdist(), "gpucheck-xdist")


def error_of(report: Any) -> str:
    """The message of a failure, at most two lines of it."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[:2])[:400]


def pytest_runtest_logreport(report: Any) -> None:
    path = _path()
    if path is None or _is_worker() or report.nodeid in _seen:
        return
    if report.when != "call" and report.outcome == "passed":
        return
    _seen.add(report.nodeid)
    record = {"name": report.nodeid, "state": report.outcome, "seconds": round(report.duration, 3)}
    if report.outcome == "failed":
        record["error"] = error_of(report)
    elif report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        record["reason"] = str(report.longrepr[2])[:200]
    records.append(path, record)


def pytest_exception_interact(call: Any) -> None:
    """Notes an error that may have taken the CUDA context with it."""
    global _lost
    _lost = _lost or any(sign in str(call.excinfo.value) for sign in _LOST)


def pytest_runtest_logfinish() -> None:
    if _lost and _is_worker() and records._context_lost():
        os._exit(records.AGAIN)


def op_of(test: str) -> str:
    """The op that a test is about."""
    found = re.search(rf"({'|'.join(STEMS)})(_backward|_loss)?", test)
    return found[0] if found else "several"


def dtype_of(test: str) -> str:
    found = re.search(r"\b(float64|float32|float16|bfloat16)\b", test.replace("-", " "))
    return found[1] if found else "float32"


# Few tests with hundreds of shapes each, for which Triton compiles long: in a process of its own.
PROPERTIES = "tests/ops/test_properties.py"


def command(
    python: str, backend: str, device: str, workers: int, properties: bool = False
) -> list[str]:
    """pytest over the tests that this backend has a part in, those of properties or all others."""
    chosen = backend if backend == device == "cpu" else f"{backend}-{device}"
    arguments = [python, "-m", "pytest", "-p", "gpucheck.suite", "-p", "no:cacheprovider"]
    arguments += [PROPERTIES] if properties else ["tests/ops", f"--ignore={PROPERTIES}"]
    arguments += ["-q", "-k", chosen, "--durations=5", "--no-header", "--tb=short"]
    arguments += ["--disable-warnings"]
    if not properties and importlib.util.find_spec("pytest_timeout") is not None:
        # A kernel that never ends holds its process; xdist goes on with another.
        arguments += ["--timeout=90", "--timeout-method=thread"]
    if workers > 1:
        arguments += ["-n", str(workers), "--dist=worksteal", "--max-worker-restart=200"]
    return arguments


def summary(path: Path) -> dict[str, Any]:
    """Counts by op and dtype, and the failures with their errors."""
    lines = records.read(path)
    results = [line for line in lines if "name" in line]
    by_op: dict[str, Counter] = {}
    by_dtype: dict[str, Counter] = {}
    for line in results:
        by_op.setdefault(op_of(line["name"]), Counter())[line["state"]] += 1
        by_dtype.setdefault(dtype_of(line["name"]), Counter())[line["state"]] += 1
    total = Counter(line["state"] for line in results)
    return {
        "collected": max((line["collected"] for line in lines if "collected" in line), default=0),
        "passed": total["passed"],
        "failed": total["failed"],
        "skipped": total["skipped"],
        "ops": {op: dict(counts) for op, counts in sorted(by_op.items())},
        "dtypes": {dtype: dict(counts) for dtype, counts in sorted(by_dtype.items())},
        "skip_reasons": dict(
            Counter(line["reason"] for line in results if "reason" in line).most_common(5)
        ),
        "failures": [line for line in results if line["state"] == "failed"],
    }


def environment(stream: Path, backend: str) -> dict[str, str]:
    return {
        _STREAM: str(stream),
        "FASTALIGN_TEST_BACKENDS": backend,
        "PYTHONPATH": os.pathsep.join([str(inplace.ROOT / "tools"), str(inplace.ROOT)]),
        # Errors are raised at the call that made them.
        "CUDA_LAUNCH_BLOCKING": "1",
    }
