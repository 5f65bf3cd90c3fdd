"""Distances of aligned images as smoothed maps of the images: Triton kernels.

Distance times evidence and evidence go through the kernel of ``warp_affine`` as two channels, by
the inverse map; then a kernel for each axis adds up the taps, whose places are reflected at the
borders, and the second one divides. Neighbouring pixels read nearly the same places: all but the
first read of each comes from the caches.

Bytes: the warped pair is written once and read once from memory, and so is what the first axis
leaves of it; both results are written once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastalign.kernels.common import float64_limit
from fastalign.kernels.warp_affine import warp_affine
from fastalign.ops import affine
from fastalign.ops.layout import accumulation_dtype
from fastalign.ops.reference.anomaly_map import LEAST_SHARE

__all__ = ["anomaly_map", "can_run"]

# Pixels of a program, and warps. Not timed.
_PIXELS = 512
_WARPS = 4


@triton.jit
def _reflected(place, size):
    """The pixel that a place stands for, reflected at both ends, which are not repeated."""
    period = tl.maximum(2 * (size - 1), 1)
    turned = place % period
    turned = tl.where(turned < 0, turned + period, turned)
    return tl.where(size == 1, 0, tl.minimum(turned, period - turned))


@triton.jit
def _sums(pair, taps, image, row, column, here, height, width, count, ALONG_ROWS: tl.constexpr):
    """Of both planes of pair [B,2,H,W] the sums over the taps along one axis."""
    value = tl.zeros(row.shape, tl.float32)
    share = tl.zeros(row.shape, tl.float32)
    plane = height.to(tl.int64) * width
    start = pair + image.to(tl.int64) * 2 * plane
    for tap in range(0, count):
        weight = tl.load(taps + tap)
        at_row = row
        at_column = column
        if ALONG_ROWS:
            at_column = _reflected(column + (tap - count // 2), width)
        else:
            at_row = _reflected(row + (tap - count // 2), height)
        at = start + at_row.to(tl.int64) * width + at_column
        value += weight * tl.load(at, mask=here, other=0.0)
        share += weight * tl.load(at + plane, mask=here, other=0.0)
    return value, share


@triton.jit(do_not_specialize=["height", "width", "count", "tiles"])
def _rows(
    pair,  # [B,2,H,W]
    taps,  # [K]
    out,  # [B,2,H,W]
    height, width, count, tiles,
    BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    image = program // tiles
    pixel = program % tiles * BLOCK + tl.arange(0, BLOCK)
    here = pixel < height * width
    value, share = _sums(
        pair, taps, image, pixel // width, pixel % width, here, height, width, count, True
    )  # fmt: skip
    plane = height.to(tl.int64) * width
    to = out + image.to(tl.int64) * 2 * plane + pixel
    tl.store(to, value, mask=here)
    tl.store(to + plane, share, mask=here)


@triton.jit(do_not_specialize=["height", "width", "count", "tiles"])
def _columns(
    pair,  # [B,2,H,W]
    taps,  # [K]
    values,  # [B,H,W]
    shares,  # [B,H,W]
    height, width, count, tiles,
    LEAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    image = program // tiles
    pixel = program % tiles * BLOCK + tl.arange(0, BLOCK)
    here = pixel < height * width
    value, share = _sums(
        pair, taps, image, pixel // width, pixel % width, here, height, width, count, False
    )  # fmt: skip
    at = image.to(tl.int64) * height * width + pixel
    tl.store(values + at, tl.div_rn(value, tl.where(share < LEAST, LEAST, share)), mask=here)
    tl.store(shares + at, share, mask=here)


def can_run(op: str, distance: Tensor, *others: Tensor) -> str | None:
    """Why the kernels cannot serve these tensors, or None."""
    return float64_limit(distance)


def anomaly_map(
    distance: Tensor, theta: Tensor, evidence: Tensor, taps: Tensor, size: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """See ``fastalign.ops.anomaly_map``."""
    batch, (height, width) = len(distance), size
    weight = evidence.to(accumulation_dtype(distance.dtype))
    both = torch.stack([distance[:, 0].to(weight.dtype) * weight, weight], 1)
    values = weight.new_empty((batch, height, width))
    shares = torch.empty_like(values)
    if values.numel() == 0:
        return values, shares
    pair = warp_affine(both, affine.invert(theta), size, "bilinear", "zeros", False)
    smoothed = torch.empty_like(pair)
    tiles = triton.cdiv(height * width, _PIXELS)
    given = taps.contiguous()
    counts = height, width, len(taps), tiles
    with torch.cuda.device_of(distance):
        _rows[(batch * tiles,)](pair, given, smoothed, *counts, BLOCK=_PIXELS, num_warps=_WARPS)
        _columns[(batch * tiles,)](
            smoothed, given, values, shares, *counts,
            LEAST=LEAST_SHARE, BLOCK=_PIXELS, num_warps=_WARPS,
        )  # fmt: skip
    return values, shares
