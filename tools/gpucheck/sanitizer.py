"""compute-sanitizer's command lines, and what its reports say."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

# Every access to shared memory is watched: many times slower than the others.
SLOW = {"racecheck"}
_TOTAL = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:errors?|hazards?)")
_FINDING = re.compile(
    r"^=+ ((?:Invalid|Uninitialized|Misaligned|Barrier|Divergent|Address|Error: |Warning: |Program "
    r"hit|Out-of-range|Race).*)$"
)
_WHERE = re.compile(r"^=+\s+(?:at|and \w+ Access at|by thread) (.*)$")


def command(
    executable: str, tool: str, python: str, backend: str, only: str, port: int
) -> list[str]:
    """``only``: the beginning of the names of the ops that are called, empty for all."""
    arguments = [executable, "--tool", tool, "--error-exitcode", "9", "--print-limit", "200"]
    arguments += ["--target-processes", "all", "--port", str(port)]
    arguments += [python, "-m", "gpucheck.small_run", "--backend", backend, "--only", only]
    return arguments + (["--few"] if tool in SLOW else [])


def environment(tool: str) -> dict[str, str]:
    """memcheck and initcheck see bounds only where torch gives every tensor its own allocation."""
    return {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if tool in ("memcheck", "initcheck") else {}


def summary(text: str) -> dict[str, Any]:
    """Number of findings, of calls watched, and the findings grouped, most frequent first.

    ``total`` is None where the tool did not come to its end.
    """
    total = _TOTAL.search(text)
    calls = re.findall(r"^calls: (\d+)$", text, re.M)
    groups: Counter = Counter()
    lines = text.splitlines()
    for number, line in enumerate(lines):
        finding = _FINDING.match(line)
        if not finding:
            continue
        where = next(
            (w[1] for below in lines[number + 1 : number + 3] if (w := _WHERE.match(below))), ""
        )
        key = re.sub(r"0x[0-9a-f]+", "#", f"{finding[1]} {where}".strip())
        groups[re.sub(r"\(\d+,\d+,\d+\)", "(..)", key)[:220]] += 1
    return {
        "total": int(total[1]) if total else None,
        "calls": int(calls[-1]) if calls else 0,
        "findings": [f"{count}x {what}" for what, count in groups.most_common(12)],
    }
