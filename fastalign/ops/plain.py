"""The ops written out in torch's own, for graphs that shall run without fastalign.

Inside :func:`plain_ops` the public functions leave no ``fastalign::`` op in what torch.export,
torch.jit.trace or the ONNX exporters record. The forms here equal the reference to rounding; unlike
it they write into no buffer, ask for no size while they run, and are differentiated by torch
itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastalign.ops import affine
from fastalign.ops.layout import accumulation_dtype, no_gradient

# Rows of a triangular factor that are unpacked to one rectangle: for 100 channels the rectangles
# hold a third more than the packed triangle, the full square would hold twice as much.
_ROWS = 32

# How many contexts are open. Neither a context variable nor a thread-local value: torch.compile
# refuses the one (torch 2.11) and does not notice a change of the other.
_open = 0


@contextmanager
def plain_ops() -> Iterator[None]:
    """Let fastalign's functions and layers compute with torch's own ops alone.

    For tracing and exporting: what is recorded inside runs where fastalign is not installed. Values
    stay the same to rounding, in eager mode too, at the cost of speed and memory
    (``pairwise_distance`` holds all pairs at once). A ``backend`` that was asked for does not
    count. Holds for the whole process, so that threads beside this one are slower meanwhile.
    """
    global _open
    _open += 1
    try:
        yield
    finally:
        _open -= 1


def active() -> bool:
    """Whether the caller is inside :func:`plain_ops`."""
    return _open > 0


def warp_affine(
    x: Tensor,
    theta: Tensor,
    size: Sequence[int],
    mode: str,
    padding_mode: str,
    align_corners: bool,
) -> Tensor:
    dtype = torch.promote_types(accumulation_dtype(x.dtype), theta.dtype)
    grid = _grid(theta.to(dtype), size, align_corners)
    return F.grid_sample(x.to(dtype), grid, mode, padding_mode, align_corners).to(x.dtype)


def _grid(theta: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Sampling coordinates ``[B,height,width,2]``."""
    row = affine.pixel_centres(size[0], theta, align_corners)[:, None]
    column = affine.pixel_centres(size[1], theta, align_corners)

    def along(axis: int) -> Tensor:
        by_x, by_y, shift = (theta[:, axis, k, None, None] for k in range(3))
        return by_x * column + by_y * row + shift

    return torch.stack([along(0), along(1)], -1)


def mahalanobis(x: Tensor, mean: Tensor, whitener: Tensor, squared: bool) -> Tensor:
    batch, channels, height, width = x.shape
    dtype = accumulation_dtype(x.dtype)
    deviation = (x.to(dtype) - mean).permute(2, 3, 1, 0).reshape(height * width, channels, batch)
    packed, white = whitener.to(dtype), []
    for start in range(0, channels, _ROWS):
        end = min(start + _ROWS, channels)
        white.append(_rows(packed, start, end) @ deviation[:, :end])
    whole = torch.cat(white, 1)
    distance = whole.square().sum(1) if squared else _lengths(whole, 1)
    return distance.t().reshape(batch, height, width)


def _rows(packed: Tensor, start: int, end: int) -> Tensor:
    """Rows ``start`` to ``end`` of the packed triangles as rectangles ``[H*W,end-start,end]``."""
    row = torch.arange(start, end, device=packed.device)[:, None]
    column = torch.arange(end, device=packed.device)
    first = start * (start + 1) // 2
    place = row * (row + 1) // 2 - first + torch.minimum(row, column)
    entries = packed[:, first : end * (end + 1) // 2]
    return entries[:, place].masked_fill(column > row, 0)


def _lengths(vectors: Tensor, dim: int) -> Tensor:
    """Euclidean lengths along ``dim``, safe for any magnitude."""
    peak = vectors.detach().abs().amax(dim, keepdim=True)
    scaled = vectors / peak.masked_fill(peak == 0, 1)
    return torch.linalg.vector_norm(scaled, dim=dim) * peak.squeeze(dim)


def _directions(vectors: Tensor) -> Tensor:
    """Unit vectors along dimension 1, zero with gradient zero for zero."""
    values = vectors.to(accumulation_dtype(vectors.dtype))
    peak = values.detach().abs().amax(1, keepdim=True)
    zero = peak == 0
    scaled = values / peak.masked_fill(zero, 1)
    norm = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return (scaled / norm.masked_fill(zero, 1)).masked_fill(zero, 0)


def _partners(images: Tensor, groups: Tensor | None) -> Tensor:
    """Which images make a pair: bool ``[B,B]``, False on the diagonal."""
    number = torch.arange(images.shape[0], device=images.device)
    others = number[:, None] != number
    return others if groups is None else others & (groups[:, None] == groups)


def dense_similarity(p: Tensor, z: Tensor, groups: Tensor | None) -> Tensor:
    unit_p, unit_z = _directions(p), _directions(z)
    pairs = _partners(p, groups).to(unit_z.dtype)
    others = (pairs @ unit_z.flatten(1)).reshape(unit_z.shape)
    count = pairs.sum(1)[:, None, None]
    return (unit_p * others).sum(1) / count.clamp_min(1)


def pairwise_distance(
    h: Tensor, mask: Tensor | None, groups: Tensor | None, squared: bool
) -> Tensor:
    values = h.to(accumulation_dtype(h.dtype))
    pairs = _partners(h, groups)[:, :, None, None]
    if mask is not None:
        # Whatever lies under the mask, NaN included, must reach neither a sum nor a gradient.
        values = values.masked_fill(~mask.unsqueeze(1), 0)
        pairs = pairs & mask & mask[:, None]
    difference = (values[:, None] - values).masked_fill(~pairs.unsqueeze(2), 0)
    distance = difference.square().sum(2) if squared else _lengths(difference, 2)
    return distance.sum(1) / pairs.sum(1).clamp_min(1)


def _mean(maps: Tensor) -> Tensor:
    number: Any = torch.sym_max(maps.numel(), 1)
    return maps.sum() / number


def dense_similarity_loss(
    p: Tensor, z: Tensor, groups: Tensor | None, need_p: bool, need_z: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return -_mean(dense_similarity(p, z, groups)), no_gradient(p), no_gradient(z)


def pairwise_distance_loss(
    h: Tensor, mask: Tensor | None, groups: Tensor | None, squared: bool, need_h: bool
) -> tuple[Tensor, Tensor]:
    return _mean(pairwise_distance(h, mask, groups, squared)), no_gradient(h)


# By the name of the op. Gradients have no form here: torch differentiates the others.
FORMS: dict[str, Callable[..., Any]] = {
    form.__name__: form
    for form in (
        dense_similarity,
        dense_similarity_loss,
        mahalanobis,
        pairwise_distance,
        pairwise_distance_loss,
        warp_affine,
    )
}
