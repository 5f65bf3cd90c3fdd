"""Times of several works taken in turns, on the CPU by the clock and on CUDA by events.

On CUDA a buffer larger than the second-level cache is read before each call, so that inputs come
from memory, and because the GPU is busy with it, the call is queued by the time it is over. Read
and not cleared: lines that still have to be written would take bandwidth from the call.
Two times are taken: of the call as it is made, and of the replay of a CUDA graph of it, in which
the host has no part.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

Works = dict[str, Callable[[], object]]
Times = dict[str, list[float]]

QUANTILES = (5, 25, 75, 95)
_FLUSH_BYTES = 256 << 20


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


def on_cpu(works: Works, seconds: float, clock: Callable[[], float] = time.perf_counter) -> Times:
    """Milliseconds of each call; a slow work takes part in fewer rounds, at least in three.

    The order changes from round to round: what a work finds in the caches is what the one before
    left there, and nobody may always follow the same one.
    """
    if not works:
        return {}
    lengths = {}
    for name, work in works.items():
        work()
        began = clock()
        work()
        lengths[name] = 1000 * (clock() - began)
    rounds = {name: rounds_for(ms, seconds, 3, 60) for name, ms in lengths.items()}
    times: Times = {name: [] for name in works}
    gc.collect()
    names, shuffle = list(works), random.Random(0).shuffle
    for turn in range(max(rounds.values())):
        shuffle(names)
        for name in names:
            if turn < rounds[name]:
                work = works[name]
                began = clock()
                work()
                times[name].append(1000 * (clock() - began))
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


def back_to_back(work: Callable[[], object], calls: int = 200) -> float:
    """Microseconds per call of many calls in a row: what a loop of small maps pays for each."""
    cuda = torch.cuda.is_available()
    for _ in range(10):
        work()
    if cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(calls):
        work()
    if cuda:
        torch.cuda.synchronize()
    return 1e6 * (time.perf_counter() - began) / calls


def copy_bandwidth(device: str) -> float:
    """Bytes per second, read and written, of torch's own copy of a large tensor."""
    size = 256 << 20
    if device == "cuda":
        size = min(1 << 30, torch.cuda.mem_get_info()[0] // 4)
    source = torch.ones(size, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    measure = on_cuda if device == "cuda" else on_cpu
    times = measure({"copy": lambda: target.copy_(source)}, 0.5)["copy"]
    return 2 * size / (median(times) / 1000)
