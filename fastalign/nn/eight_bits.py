"""Rows of 16 bits of which 8 are kept: each number a whole multiple of its row's scale. Ours.

A scale is ``m 2^e`` with m from 8 to 15, four bits, and a multiple at most 127, seven, so that each
product fits the eleven bits of float16: what is kept in a file is exactly what is computed with.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fastalign.nn.moments import runs

_MOST = 127
# The least part of a float16: below it no product is exact.
_LEAST_EXPONENT = -24


def rounded(rows: Tensor) -> Tensor:
    """Rows ``[...,C]`` of numbers below 512 with each number rounded to a multiple of its row's
    scale, the least that reaches the largest of them; float16."""
    scale = _scales(rows.float().abs().amax(-1, keepdim=True))
    # Without a negative zero, which eight bits have none of.
    return ((rows.float() / scale).round() * scale + 0.0).half()


def packed(rows: Tensor) -> tuple[Tensor, Tensor] | None:
    """Rows ``[N,R,C]`` float16 as multiples ``[N,R,C]`` int8 and scales ``[N,R]`` float16; None
    where that would not give them again, bit for bit."""
    numbers = torch.empty(rows.shape, dtype=torch.int8, device=rows.device)
    scales = torch.empty(rows.shape[:2], dtype=torch.float16, device=rows.device)
    for run in _runs(rows):
        own = rows[run].float()
        largest = own.abs().amax(-1, keepdim=True)
        fitting = torch.zeros_like(largest, dtype=torch.bool)
        # Rounding may have moved the largest below what the next smaller scale reaches.
        for scale in (_scales(largest), _next(_scales(largest))):
            times = own / scale
            fits = (times == times.round()).all(-1, keepdim=True) & ~fitting
            times = torch.where(fits, times, numbers[run])
            numbers[run] = times.clamp(-_MOST, _MOST).to(torch.int8)
            scales[run] = torch.where(fits, scale.half(), scales[run, :, None])[..., 0]
            fitting |= fits
        if not bool(fitting.all()):
            return None
    return numbers, scales


def unpacked(numbers: Tensor, scales: Tensor) -> Tensor:
    """The rows ``[N,R,C]`` float16 of :func:`packed`.

    Raises:
        ValueError: numbers and scales of other shapes or dtypes.
    """
    if numbers.dim() != 3 or scales.shape != numbers.shape[:2]:
        raise ValueError(
            f"rows of 8 bits have shape {list(numbers.shape)} and scales {list(scales.shape)}, "
            "expected [N, R, C] and [N, R]"
        )
    if (numbers.dtype, scales.dtype) != (torch.int8, torch.float16):
        raise ValueError(
            f"rows of 8 bits are {numbers.dtype} and scales {scales.dtype}, expected torch.int8 "
            "and torch.float16"
        )
    rows = torch.empty(numbers.shape, dtype=torch.float16, device=numbers.device)
    for run in _runs(rows):
        torch.mul(numbers[run], scales[run, :, None], out=rows[run])
    return rows


def _runs(rows: Tensor) -> Iterator[slice]:
    if rows.numel():
        yield from runs(len(rows), rows[0].numel(), rows.device)


def _scales(largest: Tensor) -> Tensor:
    """The least scale whose multiples reach numbers of these sizes, float32."""
    mantissa, exponent = torch.frexp(largest / _MOST)
    # From one half to 1, in sixteenths.
    steps = (mantissa * 16).ceil()
    exponent = exponent - 4
    low = exponent < _LEAST_EXPONENT
    steps = torch.where(low, largest / _MOST / 2.0**_LEAST_EXPONENT, steps).ceil().clamp_min(1)
    exponent = exponent.clamp_min(_LEAST_EXPONENT)
    return torch.ldexp(steps, exponent)


def _next(scale: Tensor) -> Tensor:
    """The scale above another."""
    return _scales(_MOST * scale * (1 + 2.0**-10))
