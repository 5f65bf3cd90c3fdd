"""What the files of ``stems`` say of an op's kernels: calls of a size that the project sees, and
what each kernel may take and its machine code must hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Vectors of 16 bytes: 4 x float or 8 x 16 bits, as the template arguments say.
WIDE = r"<float, 4\b|<(Half|BFloat16), 8\b"


@dataclass(frozen=True)
class Budget:
    """Of all instantiations of one kernel; patterns are searched for in the instantiation's name.

    Kernels use dynamic shared memory only, which the launchers bound by what the device offers.
    """

    registers: int
    wide_loads: str | None = None  # instantiations that must load 16 bytes at once
    wide_stores: str | None = None
    fused: bool = True  # must hold fused multiply-adds


@dataclass(frozen=True)
class Call:
    """A call of an op and the tensors that must cross memory for it."""

    name: str
    op: str
    run: Callable[[Any], object]
    must_move: int  # bytes: every input once, every result once


def size_of(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def maps(*shape: int, dtype: torch.dtype = torch.float32, last: bool = False) -> Tensor:
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype).contiguous(memory_format=layout)
