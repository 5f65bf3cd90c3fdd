"""Mahalanobis distance from a packed inverse Cholesky factor or a low-rank form, in plain PyTorch.

At each location distance^2 = |A (x - mean)|^2 with A = L, lower triangular, or A = I - V^T V. The
matrices are widened for a few locations at a time: all triangles unpacked would take twice the
memory of the packed form.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fastalign.ops.layout import accumulation_dtype, as_gradient, no_gradient
from fastalign.ops.reference.vectors import lengths, plain_lengths

# Entries of the widened matrices that are held at once: 16 MiB in float32.
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


class _Packed(NamedTuple):
    """Lower triangular matrices of some locations: ``[n,C,C]``."""

    factor: Tensor

    def apply(self, vectors: Tensor) -> Tensor:
        """A times vectors ``[n,C,B]``."""
        return self.factor @ vectors

    def transposed(self, vectors: Tensor) -> Tensor:
        """A^T times vectors ``[n,C,B]``."""
        return self.factor.mT @ vectors

    def gradient(self, vectors: Tensor, grad: Tensor) -> Tensor:
        """Of ``sum(grad * apply(vectors))``, by what the whitener holds."""
        channels = self.factor.shape[1]
        row, column = torch.tril_indices(channels, channels, device=grad.device)
        return (grad @ vectors.mT)[:, row, column]


class _LowRank(NamedTuple):
    """Symmetric matrices I - V^T V of some locations, by their rows V ``[n,R,C]``."""

    rows: Tensor

    def apply(self, vectors: Tensor) -> Tensor:
        return vectors - self.rows.mT @ (self.rows @ vectors)

    def transposed(self, vectors: Tensor) -> Tensor:
        return self.apply(vectors)  # symmetric

    def gradient(self, vectors: Tensor, grad: Tensor) -> Tensor:
        rows = self.rows
        return -((rows @ vectors) @ grad.mT + (rows @ grad) @ vectors.mT)


def _chunks(
    whitener: Tensor, channels: int, dtype: torch.dtype
) -> Iterator[tuple[slice, _Packed | _LowRank]]:
    """Runs of locations with their matrices in ``dtype``."""
    low_rank = whitener.dim() == 3
    size = max(1, _ENTRIES // (max(whitener.shape[1], 1) * channels if low_rank else channels**2))
    row, column = torch.tril_indices(channels, channels, device=whitener.device)
    for start in range(0, whitener.shape[0], size):
        run = slice(start, start + size)
        stored = whitener[run].to(dtype)
        if low_rank:
            yield run, _LowRank(stored)
        else:
            factor = stored.new_zeros((stored.shape[0], channels, channels))
            factor[:, row, column] = stored
            yield run, _Packed(factor)


def _whole(x: Tensor, coarse: Tensor | None, scale: Tensor | None) -> Tensor:
    """x with what a coarser map adds to it, 0 where the scale is."""
    if coarse is not None:
        dtype = accumulation_dtype(x.dtype)
        size = (x.shape[2], x.shape[3])
        more = F.interpolate(coarse.to(dtype), size, mode="bilinear", align_corners=False)
        x = x.to(dtype) + more
    # NaN must reach neither a value nor a gradient.
    return x if scale is None else x.masked_fill(scale == 0, 0)


def _scaled(value: Tensor, scale: Tensor | None) -> Tensor:
    return value if scale is None else (value * scale).masked_fill(scale == 0, 0)


def mahalanobis(
    x: Tensor,
    mean: Tensor,
    whitener: Tensor,
    coarse: Tensor | None,
    scale: Tensor | None,
    squared: bool,
) -> Tensor:
    """See ``fastalign.ops.mahalanobis``."""
    if x.numel() > 0 and not (coarse is None and scale is None):
        own = mahalanobis(_whole(x, coarse, scale), mean, whitener, None, None, squared)
        return _scaled(own, scale)
    batch, channels, height, width = x.shape
    dtype = accumulation_dtype(x.dtype)
    result = x.new_zeros((batch, height * width), dtype=dtype)
    if x.numel() > 0:
        deviation = _deviations(x, mean)
        for run, matrix in _chunks(whitener, channels, dtype):
            white = matrix.apply(deviation[run])
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
        for run, matrix in _chunks(whitener, channels, dtype):
            white = matrix.apply(deviation[run])
            # From here on the gradient of the whitened deviation.
            if squared:
                white *= 2 * by_location[run]
            else:
                length = lengths(white).unsqueeze(1)
                white = (white / length).masked_fill_(length == 0, 0) * by_location[run]
            to_x[run] = matrix.transposed(white)
            if need_whitener:
                to_whitener[run] = matrix.gradient(deviation[run], white).to(whitener.dtype)
    gradient = _maps(to_x, x)
    return (
        as_gradient(gradient, x) if need_x else no_gradient(x),
        mean.new_empty(mean.shape).copy_(-gradient.sum(0)) if need_mean else no_gradient(mean),
        to_whitener,
    )


def mahalanobis_plain(
    x: Tensor,
    mean: Tensor,
    whitener: Tensor,
    coarse: Tensor | None,
    scale: Tensor | None,
    squared: bool,
) -> Tensor:
    """``mahalanobis`` in ops that torch itself differentiates and exports."""
    return _scaled(_plain(_whole(x, coarse, scale), mean, whitener, squared), scale)


def _plain(x: Tensor, mean: Tensor, whitener: Tensor, squared: bool) -> Tensor:
    batch, channels, height, width = x.shape
    deviation = _deviations(x, mean)
    stored = whitener.to(deviation.dtype)
    if whitener.dim() == 2:
        white = []
        for start in range(0, channels, _ROWS):
            end = min(start + _ROWS, channels)
            white.append(_rows(stored, start, end) @ deviation[:, :end])
        whole = torch.cat(white, 1)
    elif whitener.shape[1] > 0:
        whole = _LowRank(stored).apply(deviation)
    else:  # other runtimes know no products over nothing
        whole = deviation
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
