"""Times of several works taken in turns, on the CPU by the clock and on CUDA by events.

On CUDA a buffer larger than the second-level cache is read before each call, so that inputs come
from memory, and because the GPU is busy with it, the call is queued by the time it is over. Read
and not cleared: lines that still have to be written would take bandwidth from the call.
Two times are taken: of the call as it is made, and of the replay of a CUDA graph of it, in which
the host has no part.

Calls on small maps are over in microseconds, and what they cost is the way into the op. There one
sample is the mean of :data:`CALLS` calls in a row, on both devices; it is their only figure.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch

Works = dict[str, Callable[[], object]]
Times = dict[str, list[float]]

QUANTILES = (5, 25, 75, 95)
_FLUSH_BYTES = 256 << 20
CALLS = 50


def summary(times: list[float]) -> dict[str, Any]:
    """Median (``ms``), quantiles and the single times, to five digits."""
    found: dict[str, Any] = {"ms": median(times)}
    ordered = sorted(times)
    for percent in QUANTILES:
        place = (len(ordered) - 1) * percent / 100
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        found[f"p{percent:02d}"] = ordered[low] + (place - low) * (ordered[high] - ordered[low])
    found["samples"] = [float(f"{value:.5g}") for value in times]
    return found


def rounds_for(milliseconds: float, seconds: float, fewest: int, most: int) -> int:
    """How often a work of this length is repeated within ``seconds``."""
    return max(fewest, min(most, int(1000 * seconds / max(milliseconds, 1e-3))))


def on_cpu(
    works: Works,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    allowed: Mapping[str, float] | None = None,
    calls: int = 1,
    settle: Callable[[], object] = lambda: None,
) -> Times:
    """Milliseconds of a call by work; a slow one takes part in fewer rounds, at least in three.

    The order changes from round to round: what a work finds in the caches is what the one before
    left there, and nobody may always follow the same one.

    Args:
        works: by name.
        seconds: of measuring, per work.
        clock: seconds.
        allowed: seconds that a work may take in all; one that needs more has fewer samples, and
            one at least.
        calls: in a row for one sample, which is their mean.
        settle: awaits the end of what was called.
    """
    if not works:
        return {}

    def sample(work: Callable[[], object]) -> float:
        began = clock()
        for _ in range(calls):
            work()
        settle()
        return 1000 * (clock() - began) / calls

    rounds = {}
    for name, work in works.items():
        may = allowed.get(name, math.inf) if allowed else math.inf
        length = spent = sample(work)
        if (spent + 2 * length) * calls <= 1000 * may:
            length = sample(work)
            spent += length
        rounds[name] = rounds_for(length * calls, min(seconds, may), 3, 60)
        if may < math.inf:
            affordable = int((1000 * may / calls - spent) / max(length, 1e-6))
            rounds[name] = max(1, min(rounds[name], affordable))
    times: Times = {name: [] for name in works}
    gc.collect()
    names, shuffle = list(works), random.Random(0).shuffle
    for turn in range(max(rounds.values())):
        shuffle(names)
        for name in names:
            if turn < rounds[name]:
                times[name].append(sample(works[name]))
    return times


def on_cuda(works: Works, seconds: float) -> Times:
    """The same by events, with the cache filled with other data before each call."""
    if not works:
        return {}
    others = torch.ones(_FLUSH_BYTES // 4, device="cuda")
    lengths = {}
    for name, work in works.items():
        work()
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        lengths[name] = 1000 * (time.perf_counter() - began)
    rounds = {name: rounds_for(ms, seconds, 5, 100) for name, ms in lengths.items()}
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {n: [] for n in works}
    for turn in range(max(rounds.values())):
        for name, work in works.items():
            if turn < rounds[name]:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                others.sum()
                start.record()
                work()
                end.record()
                events[name].append((start, end))
        if turn % 10 == 0:
            torch.cuda.synchronize()
    torch.cuda.synchronize()
    return {
        name: [start.elapsed_time(end) for start, end in pairs] for name, pairs in events.items()
    }


def capture(work: Callable[[], object]) -> Callable[[], None]:
    """A replay of ``work`` as a CUDA graph; its results stay in the graph's own memory."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = work()

    def replay(kept: object = kept) -> None:
        graph.replay()

    return replay


class Copy:
    """torch's own copy of a large tensor: how fast memory is, beside each row.

    The tensors are kept, so that no measurement pays for fresh pages.
    """

    def __init__(self, device: str) -> None:
        size = 256 << 20
        if device == "cuda":
            size = min(1 << 30, torch.cuda.mem_get_info()[0] // 4)
        self._measure = on_cuda if device == "cuda" else on_cpu
        self._source = torch.ones(size, dtype=torch.int8, device=device)
        self._target = torch.empty_like(self._source)

    def bandwidth(self, seconds: float = 0.1) -> float:
        """Bytes per second, read and written."""
        work: Works = {"copy": lambda: self._target.copy_(self._source)}
        milliseconds = median(self._measure(work, seconds)["copy"])
        return 2 * self._source.numel() / (milliseconds / 1000)
