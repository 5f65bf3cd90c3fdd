"""One case measured: gate, times in turns, memory; everything that is known of it in one row."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from fastalign.bench import gate, memory, timing
from fastalign.bench.cases import Case
from fastalign.bench.libraries import Absent
from fastalign.bench.problem import short
from fastalign.bench.works import Results

OURS = "fastalign"
# A thousand small kernels: as called is all that anyone would want to know.
_NEVER_CAPTURED = {"loop"}
# Moves bytes and computes nothing.
_WITHOUT_RESULT = {"memcpy"}


def first_line(error: BaseException, width: int = 300) -> str:
    """The error in one line; of a CUDA error the line that names it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:width]


def contestants(case: Case, backends: Sequence[str]) -> dict[str, Callable[..., Results]]:
    """Ours by backend, then the baselines."""
    ours = {f"{OURS}/{backend}": case.ours(backend) for backend in backends}
    return {**ours, **case.baselines()}


def fresh_compiler() -> None:
    """Nothing compiled before counts, and a graph may be gone through backward twice."""
    import torch._functorch.config

    torch._dynamo.reset()
    torch._functorch.config.donated_buffer = False


def describe(case: Case) -> dict[str, Any]:
    """A row without contestants."""
    return {
        "case": case.name,
        "op": case.op,
        "work": case.work,
        "mode": case.mode,
        "shape": list(case.shape),
        "dtype": short(case.dtype),
        "layout": case.layout,
        "storage": short(case.storage),
        "small": case.small,
        "bytes": case.bytes(),
        "contestants": {},
    }


def passed(
    works: dict[str, Callable[..., Results]],
    inputs: Results,
    against: gate.Yardstick,
    found: dict[str, dict[str, Any]],
) -> timing.Works:
    """The works whose results are right, on these inputs; ``found`` gets what was seen of each."""
    right: timing.Works = {}
    for name, work in works.items():
        entry = found[name] = {}
        try:
            results = work(*inputs)
            if name not in _WITHOUT_RESULT:
                entry["errors"], wrong = gate.judge(results, against, not name.startswith(OURS))
                entry["result_bytes"] = sum(r.numel() * r.element_size() for r in results)
                if wrong:
                    entry["failed"] = f"wrong: {wrong}"
            del results
        except Absent as error:
            entry["absent"] = str(error)
        except Exception as error:
            entry["failed"] = first_line(error)
        if not {"failed", "absent"} & set(entry):
            right[name] = partial(work, *inputs)
    return right


def measure(
    case: Case,
    device: str,
    backends: Sequence[str],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """The row of one case; what went wrong is in it and never raised."""
    fresh_compiler()
    torch.manual_seed(0)
    row = describe(case)
    found: dict[str, dict[str, Any]] = row["contestants"]
    inputs = case.inputs(device)
    against = gate.yardstick(case, inputs)
    row["reference_errors"] = against.errors
    works = passed(contestants(case, backends), inputs, against, found)
    del against
    gc.collect()
    _times(works, found, device, seconds, case.small, clock)
    for name, work in works.items():
        if name not in _WITHOUT_RESULT:
            found[name]["peak_bytes"] = memory.peak_bytes(work, device)
        if case.small:
            found[name]["back_to_back_us"] = timing.back_to_back(work)
    return row


def _times(
    works: timing.Works,
    found: dict[str, Any],
    device: str,
    seconds: float,
    small: bool,
    clock: Callable[[], float],
) -> None:
    if device != "cuda":
        for name, times in timing.on_cpu(works, seconds, clock).items():
            found[name] |= timing.summary(times)
        return
    for name, times in timing.on_cuda(works, seconds).items():
        found[name] |= timing.summary(times)
    replays: timing.Works = {}
    for name, work in works.items():
        if name in _NEVER_CAPTURED:
            continue
        try:
            replays[name] = timing.capture(work)
        except Exception as error:
            found[name]["no_graph"] = first_line(error)
            torch.cuda.synchronize()
    for name, times in timing.on_cuda(replays, seconds).items():
        found[name] |= {f"graph_{key}": value for key, value in timing.summary(times).items()}
        if small:
            found[name]["graph_back_to_back_us"] = timing.back_to_back(replays[name])


def prepare(case: Case, device: str, backends: Sequence[str]) -> None:
    """Runs each contestant once: compiled code is in the caches from then on."""
    fresh_compiler()
    inputs = case.inputs(device)
    for name, work in contestants(case, backends).items():
        if name == "loop":
            continue
        try:
            work(*inputs)
        except Exception as error:
            print(f"{case.name}: {name}: {first_line(error)}", flush=True)
