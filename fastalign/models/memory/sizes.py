"""Memory in bytes: as people write it, as a process has it, and given back."""

from __future__ import annotations

import ctypes
import os
import re

import torch

from fastalign.errors import ConfigError
from fastalign.numeric import LARGEST_SIZE

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def parse_bytes(text: str) -> int:
    """``"4GB"``, ``"900 MB"`` or ``"2GiB"`` in bytes.

    Raises:
        ConfigError: it is no size.
    """
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kmgt]?)(i?)b?\s*", text.lower())
    size = 0.0
    if found is not None and (found[2] or not found[3]):
        unit = 2 ** (10 * "kmgt".index(found[2]) + 10) if found[3] else _UNITS[found[2]]
        size = float(found[1]) * unit
    if not 1 <= size <= LARGEST_SIZE:
        shown = text if len(text) <= 40 else f"{text[:37]}..."
        raise ConfigError(f"memory budget {shown!r}: give a size such as 4GB or 900MB.")
    return int(size)


def resident_bytes() -> int:
    """Memory of this process now; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, AttributeError, ValueError):
        return 0


def resident_of(tensor: torch.Tensor | None) -> int:
    """How much of a tensor's memory is resident: a file that was mapped is read page by page."""
    if tensor is None:
        return 0
    whole = tensor.numel() * tensor.element_size()
    try:
        with open("/proc/self/smaps") as file:
            inside = False
            for line in file:
                name, _, value = line.partition(" ")
                if "-" in name:
                    start, end = (int(bound, 16) for bound in name.split("-"))
                    inside = start <= tensor.data_ptr() < end
                elif inside and name == "Rss:":
                    return min(whole, 1024 * int(value.split()[0]))
    except (OSError, ValueError):
        pass
    return whole


def release_unused() -> None:
    """Give memory that was freed back to the system, where the C library can: after a phase of many
    small tensors it may hold on to most of them."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return
