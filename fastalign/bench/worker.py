"""The other end of :mod:`interleave`: prepares a case and times one call after the other."""

from __future__ import annotations

import json
import os
import sys
import time
from statistics import median
from typing import Any

import torch

from fastalign.bench import gate, timing
from fastalign.bench.cases import GRID, QUICK
from fastalign.bench.measure import OURS, first_line, fresh_compiler, passed
from fastalign.bench.setting import BACKENDS, runnable

_TURN_S = 0.02


def prepare(name: str, device: str) -> tuple[timing.Works, list[str]]:
    """The gated works of ours on a case, and why others are not among them."""
    case = next(case for case in (*QUICK, *GRID) if case.name == name)
    try:
        fresh_compiler()
        inputs = case.inputs(device)
        against = gate.yardstick(case, inputs)
        backends = runnable(device, list(BACKENDS[device]))[0]
        works = {f"{OURS}/{backend}": case.ours(backend) for backend in backends}
        found: dict[str, dict[str, Any]] = {}
        right = passed(works, inputs, against, found)
    except Exception as error:
        return {}, [first_line(error)]
    return right, [f"{n}: {e['failed']}" for n, e in found.items() if "failed" in e]


def turn(work: Any, device: str) -> float:
    """Median milliseconds of a few calls, after one that brings the data back into the caches."""
    _call(work, device)
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < _TURN_S:
        times.append(_call(work, device))
    return median(times)


def _call(work: Any, device: str) -> float:
    began = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began)


def serve(device: str, threads: int) -> None:
    """Answers commands until the input ends."""
    # Whatever a library prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(threads)
    works: timing.Works = {}
    for line in sys.stdin:
        command = json.loads(line)
        if "prepare" in command:
            works, failed = prepare(command["prepare"], device)
            answer: dict[str, Any] = {"ready": list(works), "failed": failed}
        else:
            answer = {"ms": turn(works[command["time"]], device)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
