"""Peak memory of one call beyond what was held before it, its results included."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

from fastalign import ops

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _resident(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in {_STATUS}")


def _give_back_free_memory() -> None:
    """What malloc and the CPU kernels keep for later would hide the same amount of new memory."""
    gc.collect()
    ops.release_memory()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        pass


def peak_bytes(work: Callable[[], object], device: str) -> int | None:
    """Largest growth during one call; None where the system cannot say.

    CUDA: torch's allocator. CPU: resident memory, whose high-water mark Linux can set back.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kept = work()
        torch.cuda.synchronize()
        del kept
        return torch.cuda.max_memory_allocated() - before
    try:
        _give_back_free_memory()
        _RESET.write_text("5")
        before = _resident("VmRSS")
        kept = work()
        peak = _resident("VmHWM") - before
    except OSError:
        return None
    del kept
    return max(peak, 0)
