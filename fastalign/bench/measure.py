"""One case measured: gate, times in turns, memory; everything that is known of it in one row.

Times are taken again, twice at most, where other work held the cores meanwhile; the quietest ones
stay, and a row says under which load they were taken.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch

from fastalign.bench import gate, libraries, memory, plans, timing
from fastalign.bench.budget import Clock, Share
from fastalign.bench.cases import Case
from fastalign.bench.libraries import Absent
from fastalign.bench.modes import LOSS, Results
from fastalign.bench.problem import short
from fastalign.load import Load, LoadMeter
from fastalign.ops.backends import automatic
from fastalign.ops.plans import Plan

OURS = "fastalign"
# Its first call compiles, and says nothing of the next.
COMPILED = "compiled"
REPEATS = 2
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
        "storage": case.stored,
        "small": case.small,
        "bytes": case.bytes(),
        "contestants": {},
    }


def passed(
    works: dict[str, Callable[..., Results]],
    inputs: Results,
    against: gate.Yardstick,
    found: dict[str, dict[str, Any]],
    share: Share | None = None,
    clock: Clock = time.perf_counter,
) -> timing.Works:
    """The works whose results are right, on these inputs; ``found`` gets what was seen of each.

    A work whose first call takes its whole ``share`` is out of time, and the others go on.
    """
    right: timing.Works = {}
    share = share or Share()
    for name, work in works.items():
        entry = found[name] = {}
        try:
            if name in libraries.MODULES:
                libraries.load(libraries.MODULES[name])
            began = clock()
            results = work(*inputs)
            spent = clock() - began
            if name not in _WITHOUT_RESULT:
                entry["errors"], wrong = gate.judge(results, against, not name.startswith(OURS))
                entry["result_bytes"] = sum(r.numel() * r.element_size() for r in results)
                if wrong:
                    entry["failed"] = f"wrong: {wrong}"
            del results
            if name != COMPILED and not name.startswith(OURS):
                share.spend(name, spent)
                if share.left(name) <= 0 and "failed" not in entry:
                    entry["call_s"] = spent
                    entry["out_of_time"] = (
                        f"a call took {spent:.2g} s, its share were {share.each:.2g} s"
                    )
        except Absent as error:
            entry["absent"] = str(error)
        except Exception as error:
            entry["failed"] = first_line(error)
        if not {"failed", "absent", "out_of_time"} & set(entry):
            right[name] = partial(work, *inputs)
    return right


def measure(
    case: Case,
    device: str,
    backends: Sequence[str],
    seconds: float,
    clock: Clock = time.perf_counter,
    *,
    copy: timing.Copy | None = None,
    budget: float = float("inf"),
    without: Mapping[str, str] | None = None,
    repeats: int = REPEATS,
    forced: Sequence[Plan] = (),
    alone: bool = False,
) -> dict[str, Any]:
    """The row of one case; what went wrong is in it and never raised.

    Args:
        case: what is computed.
        device: ``cpu`` or ``cuda``.
        backends: ours.
        seconds: of measuring, per contestant.
        clock: seconds.
        copy: measured before and after the turns.
        budget: seconds of the whole case, which its contestants share.
        without: contestants that are not begun for want of time, and why in words.
        repeats: how often times that were taken under load are taken again.
        forced: launch plans, each of which is one more contestant of ours.
        alone: without the baselines.
    """
    end = clock() + budget
    fresh_compiler()
    torch.manual_seed(0)
    row = describe(case)
    found: dict[str, dict[str, Any]] = row["contestants"]
    inputs = case.inputs(device)
    op = f"{case.op}_loss" if case.work == LOSS else case.op
    row["automatic"] = automatic(op, torch.empty(0, dtype=case.dtype, device=device))
    against = gate.yardstick(case, inputs)
    row["reference_errors"] = against.errors
    planned, words = plans.contestants(case, backends, forced, OURS)
    every = contestants(case, backends) | planned
    if alone:
        every = {name: work for name, work in every.items() if name.startswith(OURS)}
    without = without or {}
    begun = {name: work for name, work in every.items() if name not in without}
    share = Share(budget, len(begun))
    works = passed(begun, inputs, against, found, share, clock)
    found |= {name: {"out_of_time": without[name]} for name in every if name in without}
    for name, text in words.items():
        found[name]["plan"] = text
    del against
    gc.collect()
    moved = [copy.bandwidth()] if copy else []
    allowed = {name: share.left(name) for name in works}
    if case.small:
        row["calls_per_sample"] = timing.CALLS
    for attempt in range(1 + repeats):
        meter, began = LoadMeter(), clock()
        times = _times(works, device, seconds, case.small, clock, allowed)
        load = meter.read()
        if attempt == 0 or _quieter(load, Load.from_json(row["load"])):
            row |= {"load": load.to_json(), "repeats": attempt}
            for name, entry in times.items():
                found[name] |= entry
        now = clock()
        if not load.busy or now + (now - began) > end:
            break
    if copy:
        row["copy_bytes_per_second"] = median([*moved, copy.bandwidth()])
    for name, work in works.items():
        if name not in _WITHOUT_RESULT and found[name]["ms"] <= 1000 * share.each:
            found[name]["peak_bytes"] = memory.peak_bytes(work, device)
    return row


def _quieter(one: Load, other: Load) -> bool:
    if one.waited is not None and other.waited is not None:
        return one.waited < other.waited
    return (one.average or 0.0) < (other.average or 0.0)


def _times(
    works: timing.Works,
    device: str,
    seconds: float,
    small: bool,
    clock: Clock,
    allowed: dict[str, float],
) -> dict[str, dict[str, Any]]:
    """What :func:`timing.summary` says of each work, and on CUDA of its graph (``graph_``)."""

    def taken(of: timing.Works) -> timing.Times:
        if small and device == "cuda":
            settle = torch.cuda.synchronize
            return timing.on_cpu(of, seconds, clock, allowed, timing.CALLS, settle)
        if device == "cuda":
            return timing.on_cuda(of, seconds)
        return timing.on_cpu(of, seconds, clock, allowed, timing.CALLS if small else 1)

    found = {name: timing.summary(times) for name, times in taken(works).items()}
    if device != "cuda":
        return found
    replays: timing.Works = {}
    for name, work in works.items():
        if name in _NEVER_CAPTURED:
            continue
        try:
            replays[name] = timing.capture(work)
        except Exception as error:
            found[name]["no_graph"] = first_line(error)
            torch.cuda.synchronize()
    for name, times in taken(replays).items():
        found[name] |= {f"graph_{key}": value for key, value in timing.summary(times).items()}
    return found


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
