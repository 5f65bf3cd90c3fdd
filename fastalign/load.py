"""How busy the machine is, and how threads that share work wait for each other on it.

torch's threads, which the native kernels run on too, are OpenMP's. By default one that has finished
its share spins until the others have: quickest on an idle machine, and ruinous where another
program holds one of the cores, since the spinning keeps the thread that everybody waits for from
running. The runtime reads its settings once, when torch is loaded.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from fastalign.errors import LoadWarning

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

POLICY = "OMP_WAIT_POLICY"
SPINS = "GOMP_SPINCOUNT"
# What a user can say about waiting: to all runtimes, to GNU's, to Intel's and LLVM's.
SETTINGS = (POLICY, SPINS, "KMP_BLOCKTIME", "KMP_LIBRARY")
# Turns of GNU's waiting loop before a thread sleeps: about the pause between two layers, after
# which it would have to be woken (benchmarks/busy_machine.py measures what this costs and saves).
_SHORT = 2000
# GNU's malloc.h; the largest block that it takes, and how much of what is free it keeps in all.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BLOCK, _KEPT = 32 << 20, 512 << 20
# Share of the time in which our threads could run and had no core, above which times mislead.
_BUSY = 0.1
# The same share, above which a spinning thread costs more than it saves.
_CROWDED = 0.2
_WINDOW_S = 0.5
_PAUSE_S = 5.0
_TASKS = Path("/proc/self/task")

SPINNING = (
    "this machine is busy and torch's threads spin while they wait for each other, which makes "
    f"them many times slower; set {POLICY}=passive before Python starts (the fastalign command "
    "does), or use fewer threads"
)


def wait_passively(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Let threads sleep that wait for more than a moment, for a torch that is loaded later and for
    child processes; whether it was chosen. What the user has set stays, and nothing is set once
    torch is loaded."""
    if "torch" in sys.modules and environment is os.environ:
        return False
    if any(environment.get(name) for name in SETTINGS):
        return False
    environment[POLICY] = "passive"
    environment[SPINS] = str(_SHORT)
    return True


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Let this process keep memory that it frees, for the next image; whether it was chosen.

    GNU's malloc gives large blocks back and asks for them again, and the system clears each page
    when it is touched, those of every map of a network anew for every image. What the user has set
    of malloc stays, as does another malloc.
    """
    if any(name.startswith("MALLOC_") for name in environment):
        return False
    if "glibc.malloc" in environment.get("GLIBC_TUNABLES", ""):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _KEPT_BLOCK) and mallopt(_M_TRIM_THRESHOLD, _KEPT))


def spins(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Whether the settings let a waiting thread spin for longer than it takes to wake it."""
    count = environment.get(SPINS, "").strip()
    if count:
        return not count.isdigit() or int(count) > _SHORT
    if environment.get("KMP_BLOCKTIME", "").strip() in ("0", "0ms", "0us"):
        return False
    return environment.get(POLICY, "").strip().lower() != "passive"


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def average() -> float | None:
    """Processes that ran or wanted to, mean over the last minute; None where it is not told."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


@dataclass(frozen=True)
class Load:
    """The load of a stretch of time.

    Attributes:
        average: load average of the last minute at its end, the larger one of both ends.
        cores: cores that this process may use.
        waited: share of the time in which this process's threads could run and had no core, 0 to 1;
            None where the system does not tell.
    """

    average: float | None
    cores: int
    waited: float | None

    @property
    def busy(self) -> bool:
        """Whether times taken meanwhile say more about the machine's other work than about ours."""
        if self.waited is not None:
            return self.waited > _BUSY
        return self.average is not None and self.average > self.cores + 0.5

    def describe(self) -> str:
        """In words, such as ``load average 4.1 on 2 cores, waited for a core 48 % of the time``."""
        known = (
            "load average unknown" if self.average is None else f"load average {self.average:.1f}"
        )
        words = f"{known} on {self.cores} core{'s' if self.cores != 1 else ''}"
        if self.waited is not None:
            words += f", waited for a core {100 * self.waited:.0f} % of the time"
        return words

    def to_json(self) -> dict[str, Any]:
        """``load_average``, ``cores``, ``waited`` and ``busy``; :meth:`from_json` reads it."""
        shown = None if self.average is None else round(self.average, 2)
        waited = None if self.waited is None else round(self.waited, 3)
        return {"load_average": shown, "cores": self.cores, "waited": waited, "busy": self.busy}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Load:
        """What :meth:`to_json` wrote."""
        return cls(document["load_average"], document["cores"], document["waited"])


class LoadMeter:
    """Measures the load from its making on: ``meter = LoadMeter(); ...; meter.read()``."""

    def __init__(self) -> None:
        self._average = average()
        self._tasks = _task_times()

    def read(self) -> Load:
        """The load since then."""
        ends = [value for value in (self._average, average()) if value is not None]
        return Load(max(ends, default=None), cores(), _waited(self._tasks, _task_times()))


def _task_times() -> dict[str, tuple[int, int]]:
    """Nanoseconds on a core and in wait of one, by thread of this process; empty where unknown."""
    times: dict[str, tuple[int, int]] = {}
    try:
        for task in os.listdir(_TASKS):
            try:
                ran, waited, _ = (_TASKS / task / "schedstat").read_text().split()
            except FileNotFoundError:  # the thread has ended
                continue
            times[task] = int(ran), int(waited)
    except (OSError, ValueError):
        return {}
    return times


def _waited(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> float | None:
    """Share of the time in wait of a core, of the threads that are there at the end."""
    ran = waited = 0
    for task, (ran_then, waited_then) in after.items():
        ran_before, waited_before = before.get(task, (0, 0))
        ran += ran_then - ran_before
        waited += waited_then - waited_before
    return waited / (ran + waited) if ran + waited > 0 else None


class SpinWatch:
    """Warns once, in one line, when threads spin while other work holds the cores.

    What it watches is judged in stretches of half a second of calls, with pauses between them, so
    that it costs a call two looks at the clock.

    Args:
        threads: how many threads share the work.
        warn: told the line.
    """

    def __init__(self, threads: Callable[[], int], warn: Callable[[str], None]) -> None:
        self._threads = threads
        self._warn = warn
        self._meter: LoadMeter | None = None
        self._inside = False
        self._spent = 0.0
        self._rest_until = 0.0
        self._done = False
        self._looked = False

    def __call__(self, work: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        """``work``, watched; inside a graph that is being captured it is ``work`` itself."""

        @functools.wraps(work)
        def watched(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
            if _captured():
                return work(*args, **kwargs)
            if not self._looked:
                # Not when this was made: a command sets the policy after its imports.
                self._looked, self._done = True, not spins()
            if self._done or self._inside:
                return work(*args, **kwargs)
            began = self._begin()
            try:
                return work(*args, **kwargs)
            finally:
                self._end(began)

        return watched

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Not watching during the block: its threads outnumber the cores on purpose."""
        before, self._inside = self._inside, True
        try:
            yield
        finally:
            self._inside = before

    def _begin(self) -> float:
        self._inside = True
        now = time.perf_counter()
        if self._meter is None and now >= self._rest_until:
            self._meter, self._spent = LoadMeter(), 0.0
        return now

    def _end(self, began: float) -> None:
        self._inside = False
        now = time.perf_counter()
        self._spent += now - began
        if self._meter is None or self._spent < _WINDOW_S:
            return
        load = self._meter.read()
        self._meter, self._rest_until = None, now + _PAUSE_S
        crowded = load.busy if load.waited is None else load.waited > _CROWDED
        if crowded and self._threads() > 1:
            self._done = True
            self._warn(f"{SPINNING} ({load.describe()}).")


def _captured() -> bool:
    import torch

    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def _say(line: str) -> None:
    warnings.warn(line, LoadWarning, stacklevel=4)


watched = SpinWatch(_torch_threads, _say)
