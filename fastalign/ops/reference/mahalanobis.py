"""Mahalanobis distance from a packed inverse Cholesky factor, in plain PyTorch.

At each location distance^2 = |L (x - mean)|^2 with L lower triangular. The factors are unpacked for
a few locations at a time: all of them unpacked would take twice the memory of the packed form.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fastalign.ops.layout import accumulation_dtype, as_gradient, no_gradient
from fastalign.ops.reference.vectors import lengths, plain_lengths

# Entries of the unpacked factors that are held at once: 16 MiB in float32.
_ENTRIES = 1 << 22

# Rows of a triangular factor that the plain form unpacks to one rectangle: for 100 channels the
# rectangles hold a third more than the packed triangle, the full square would hold twice as much.
_ROWS = 32


def _deviations(x: Tensor, mean: Tensor) -> Tensor:
    """``x - mean`` by location: ``[H*W,C,B]``."""
    batch, channels, height, width = x.shape
    deviation = x.to(accumulation_dtype(x.dtype)) - mean
    return deviation.permute(2, 3, 1, 0).reshape(height * width, channels, batch)


def _maps(values: Tensor, like: Tensor) -> Tensor:
    """``[H*W,C,B]`` seen as ``[B,C,H,W]``."""
    batch, channels, height, width = like.shape
    return values.reshape(height, width, channels, batch).permute(3, 2, 0, 1)


def _chunks(whitener: Tensor, channels: int, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Runs of locations with their factors ``[n,C,C]`` in ``dtype``."""
    row, column = torch.tril_indices(channels, channels, device=whitener.device)
    size = max(1, _ENTRIES // (channels * channels))
    for start in range(0, whitener.shape[0], size):
        run = slice(start, start + size)
        packed = whitener[run].to(dtype)
        factor = packed.new_zeros((packed.shape[0], channels, channels))
        factor[:, row, column] = packed
        yield run, factor


def mahalanobis(x: Tensor, mean: Tensor, whitener: Tensor, squared: bool) -> Tensor:
    """See ``fastalign.ops.mahalanobis``."""
    batch, channels, height, width = x.shape
    dtype = accumulation_dtype(x.dtype)
    result = x.new_zeros((batch, height * width), dtype=dtype)
    if x.numel() > 0:
        deviation = _deviations(x, mean)
        for run, factor in _chunks(whitener, channels, dtype):
            white = factor @ deviation[run]
            result[:, run] = (white.square().sum(1) if squared else lengths(white)).t()
    return result.view(batch, height, width)


def mahalanobis_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    whitener: Tensor,
    squared: bool,
    need_x: bool,
    need_mean: bool,
    need_whitener: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``sum(grad * mahalanobis)``; the distance itself has gradient 0 at 0."""
    batch, channels, height, width = x.shape
    dtype = accumulation_dtype(x.dtype)
    by_location = grad.permute(1, 2, 0).reshape(height * width, 1, batch)
    to_x = x.new_zeros((height * width, channels, batch), dtype=dtype)
    to_whitener = torch.zeros(
        whitener.shape if need_whitener else (0,), dtype=whitener.dtype, device=x.device
    )
    if x.numel() > 0:
        deviation = _deviations(x, mean)
        row, column = torch.tril_indices(channels, channels, device=x.device)
        for run, factor in _chunks(whitener, channels, dtype):
            white = factor @ deviation[run]
            # From here on the gradient of the whitened deviation.
            if squared:
                white *= 2 * by_location[run]
            else:
                length = lengths(white).unsqueeze(1)
                white = (white / length).masked_fill_(length == 0, 0) * by_location[run]
            to_x[run] = factor.mT @ white
            if need_whitener:
                outer = white @ deviation[run].mT
                to_whitener[run] = outer[:, row, column].to(whitener.dtype)
    gradient = _maps(to_x, x)
    return (
        as_gradient(gradient, x) if need_x else no_gradient(x),
        mean.new_empty(mean.shape).copy_(-gradient.sum(0)) if need_mean else no_gradient(mean),
        to_whitener,
    )


def mahalanobis_plain(x: Tensor, mean: Tensor, whitener: Tensor, squared: bool) -> Tensor:
    """``mahalanobis`` in ops that torch itself differentiates and exports."""
    batch, channels, height, width = x.shape
    deviation, white = _deviations(x, mean), []
    packed = whitener.to(deviation.dtype)
    for start in range(0, channels, _ROWS):
        end = min(start + _ROWS, channels)
        white.append(_rows(packed, start, end) @ deviation[:, :end])
    whole = torch.cat(white, 1)
    distance = whole.square().sum(1) if squared else plain_lengths(whole, 1)
    return distance.t().reshape(batch, height, width)


def _rows(packed: Tensor, start: int, end: int) -> Tensor:
    """Rows ``start`` to ``end`` of the packed triangles as rectangles ``[H*W,end-start,end]``."""
    row = torch.arange(start, end, device=packed.device)[:, None]
    column = torch.arange(end, device=packed.device)
    first = start * (start + 1) // 2
    place = row * (row + 1) // 2 - first + torch.minimum(row, column)
    entries = packed[:, first : end * (end + 1) // 2]
    return entries[:, place].masked_fill(column > row, 0)
