"""Lines of JSON as the memory of a process that may die at any moment.

A check writes ``{"start": name}`` before and ``{"name": ..., "state": ...}`` after. A name that was
started and never ended was the end of its process; started again with the same file, a process
leaves out everything that the file names.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Record = dict[str, Any]
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
# The exit status of a process whose CUDA context is lost; it is to be started again.
AGAIN = 75


class Skip(Exception):
    """A check that does not apply here; the message says why."""


def short_error(error: BaseException, width: int = 400) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' / '.join(lines[:2])}"[:width]


def append(path: Path, record: Record) -> None:
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def read(path: Path) -> list[Record]:
    """All whole lines; the last one may have been cut off."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def unfinished(path: Path) -> list[str]:
    """The checks that were begun and have no result."""
    lines = read(path)
    ended = {line["name"] for line in lines if "name" in line}
    return [line["start"] for line in lines if "start" in line and line["start"] not in ended]


def finished(path: Path, crashed: bool) -> list[Record]:
    """The results; where the process ended by itself, a check without one is what ended it."""
    results = [line for line in read(path) if "name" in line]
    if crashed:
        error = "the process ended in this check"
        results += [{"name": n, "state": FAILED, "error": error} for n in unfinished(path)]
    return results


def _context_lost() -> bool:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def run_checks(checks: dict[str, Callable[[], Any]], path: Path) -> None:
    """Runs what the file does not name yet; what a check returns becomes its detail."""
    known = {line.get("start") for line in read(path)}
    for name, check in checks.items():
        if name in known:
            continue
        append(path, {"start": name})
        began = time.perf_counter()
        record: Record = {"name": name, "state": PASSED}
        try:
            detail = check()
            if detail is not None:
                record["detail"] = detail
        except Skip as reason:
            record.update(state=SKIPPED, reason=str(reason))
        except Exception as error:
            record.update(state=FAILED, error=short_error(error))
        record["seconds"] = round(time.perf_counter() - began, 3)
        append(path, record)
        if record["state"] == FAILED and _context_lost():
            sys.exit(AGAIN)
