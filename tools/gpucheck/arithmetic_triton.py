"""What the Triton kernels rely on of the chip's arithmetic and its conversions, a value a lane.

The interpreter computes these with numpy: a fused multiply-add in two roundings, NaN and values out
of range to whatever integer the processor gives.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastalign.kernels.sampling import pad_axis, split_axis

BLOCK = 1024


@triton.jit
def _fma(a, b, c, out, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    value = tl.fma(tl.load(a + at, inside), tl.load(b + at, inside), tl.load(c + at, inside))
    tl.store(out + at, value, inside)


@triton.jit
def _divide(a, b, c, out, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    tl.store(out + at, tl.load(a + at, inside) / tl.load(b + at, inside, 1.0), inside)


@triton.jit
def _rsqrt(a, b, c, out, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    tl.store(out + at, tl.rsqrt(tl.load(a + at, inside, 1.0)), inside)


@triton.jit
def _sqrt_rn(a, b, c, out, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    tl.store(out + at, tl.sqrt_rn(tl.load(a + at, inside, 1.0)), inside)


@triton.jit
def _larger_or_nan(a, b, c, out, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    first, second = tl.load(a + at, inside), tl.load(b + at, inside)
    larger = tl.maximum(first, second, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out + at, larger, inside)


@triton.jit
def _convert(a, b, c, out, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    tl.store(out + at, tl.load(a + at, inside).to(out.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["size"])  # as in the kernels: 1 is a size like any other
def _pixel(a, b, c, out, count, size, PADDING: tl.constexpr, ALIGN: tl.constexpr,
           NEAREST: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    padded, _ = pad_axis(tl.load(a + at, inside), size, PADDING, ALIGN)
    pixel, _ = split_axis(padded, NEAREST)
    tl.store(out + at, pixel, inside)


KERNELS = {
    "fma_float32": _fma,
    "fma_float64": _fma,
    "divide": _divide,
    "rsqrt": _rsqrt,
    "sqrt_rn": _sqrt_rn,
    "larger_or_nan": _larger_or_nan,
    "to_bfloat16": _convert,
    "to_half": _convert,
    "from_half": _convert,
    "to_int32": _convert,
}


def compute(name: str, inputs: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype) -> Tensor:
    """The function ``name`` of each triple of values, as ``dtype``."""
    a, b, c = inputs
    out = a.new_empty(a.shape, dtype=dtype)
    grid = (triton.cdiv(a.numel(), BLOCK),)
    KERNELS[name][grid](a, b, c, out, a.numel(), BLOCK=BLOCK)
    return out


def pixels(positions: Tensor, size: int, padding: int, align: bool, nearest: bool) -> Tensor:
    """The pixels of an axis of ``size`` that the kernels of warp_affine take for float64
    ``positions``; padding 0 zeros, 1 border, 2 reflection."""
    out = positions.new_empty(positions.shape, dtype=torch.int32)
    grid = (triton.cdiv(positions.numel(), BLOCK),)
    _pixel[grid](
        positions, positions, positions, out, positions.numel(), size,
        PADDING=padding, ALIGN=align, NEAREST=nearest, BLOCK=BLOCK,
    )  # fmt: skip
    return out
