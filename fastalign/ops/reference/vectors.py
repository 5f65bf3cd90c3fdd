"""Lengths and directions of the vectors along a dimension, safe for any magnitude.

Those named plain write into no buffer and can be differentiated by torch to any order: a zero
vector is replaced before its length is taken, because derivatives of a root at 0 are not finite.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastalign.ops.layout import accumulation_dtype


class Directions(NamedTuple):
    """Vectors ``v`` as ``unit * (peak * norm)``.

    The two factors of the length are kept apart: their product can leave the range of the dtype
    where each of them, and the gradient, does not.
    """

    unit: Tensor  # [B,C,H,W], zero where v is zero
    peak: Tensor  # [B,1,H,W], largest absolute entry, 1 where v is zero
    norm: Tensor  # [B,1,H,W], length of v / peak, 1 where v is zero
    zero: Tensor  # [B,1,H,W] bool


def directions(vectors: Tensor) -> Directions:
    """Unit vectors of ``vectors`` ``[B,C,H,W]`` in the accumulation dtype.

    Each vector is divided by its largest absolute entry before anything is squared, so that
    1e-30 does not vanish and 1e30 does not overflow in float32.
    """
    values = vectors.to(accumulation_dtype(vectors.dtype))
    # torch.linalg.vector_norm is thirty times slower over this dimension of a CPU tensor.
    peak = values.abs().amax(1, keepdim=True)
    zero = peak == 0
    peak = peak.masked_fill(zero, 1)
    scaled = values / peak
    norm = scaled.square().sum(1, keepdim=True).sqrt_().masked_fill_(zero, 1)
    return Directions(scaled.div_(norm), peak, norm, zero)


def lengths(vectors: Tensor, dim: int = 1) -> Tensor:
    """Euclidean lengths along ``dim``, with the same care; the dimension is dropped."""
    peak = torch.linalg.vector_norm(vectors, float("inf"), dim=dim, keepdim=True)
    scaled = vectors / peak.masked_fill(peak == 0, 1)
    return torch.linalg.vector_norm(scaled, dim=dim).mul_(peak.squeeze(dim))


def dot(first: Tensor, second: Tensor) -> Tensor:
    """Inner products along dimension 1: ``[B,C,H,W]`` twice to ``[B,H,W]``."""
    return (first * second).sum(1)


def _scaled(vectors: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors over their largest entry, ones for a zero vector; that entry; which are zero."""
    peak = vectors.detach().abs().amax(dim, keepdim=True)
    zero = peak == 0
    return (vectors / peak.masked_fill(zero, 1)).masked_fill(zero, 1), peak, zero


def plain_lengths(vectors: Tensor, dim: int) -> Tensor:
    """Euclidean lengths along ``dim``, with derivative 0 at 0."""
    scaled, peak, _ = _scaled(vectors, dim)
    return torch.linalg.vector_norm(scaled, dim=dim) * peak.squeeze(dim)


def plain_directions(vectors: Tensor) -> Tensor:
    """Unit vectors along dimension 1, zero with derivative zero for zero."""
    scaled, _, zero = _scaled(vectors.to(accumulation_dtype(vectors.dtype)), 1)
    norm = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return (scaled / norm).masked_fill(zero, 0)
