"""The ops as the definitions say, in loops over images and pixels: slow, and nothing clever.

Each takes ``dtype``, the dtype it computes in: float64 for the exact result, float32 for what plain
PyTorch makes of it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def _partners(image: int, batch: int, groups: Tensor | None) -> list[int]:
    return [
        other
        for other in range(batch)
        if other != image and (groups is None or groups[other] == groups[image])
    ]


def _root(square: Tensor) -> Tensor:
    """Square root with gradient 0 at 0, as the ops have it."""
    return torch.where(square == 0, 0.0, square.masked_fill(square == 0, 1).sqrt())


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine over the first dimension, 0 with a zero vector; differentiable."""
    lengths = _root(first.square().sum(0)) * _root(second.square().sum(0))
    zero = lengths == 0
    return torch.where(zero, 0.0, (first * second).sum(0) / lengths.masked_fill(zero, 1))


def dense_similarity(
    p: Tensor, z: Tensor, groups: Tensor | None = None, *, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Mean over b != a of the group of cos(p_a, z_b): ``[B,H,W]``."""
    p, z = p.to(dtype), z.to(dtype)
    images = []
    for a in range(len(p)):
        partners = _partners(a, len(p), groups)
        terms = [_cosine(p[a], z[b]) for b in partners]
        total = torch.stack(terms).sum(0) if terms else p[a].sum(0) * 0
        images.append(total / max(len(partners), 1))
    return torch.stack(images)


def pairwise_distance(
    h: Tensor,
    mask: Tensor | None = None,
    groups: Tensor | None = None,
    squared: bool = False,
    *,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Mean over valid b != a of the group of |h_a - h_b|: ``[B,H,W]``."""
    h = h.to(dtype)
    batch, _, height, width = h.shape
    rows = []
    for a in range(batch):
        total, count = h[a].sum(0) * 0, torch.zeros(height, width, dtype=h.dtype)
        for b in _partners(a, batch, groups):
            square = (h[a] - h[b]).square().sum(0)
            valid = torch.ones_like(count) if mask is None else (mask[a] & mask[b]).to(dtype)
            total = total + (square if squared else _root(square)) * valid
            count += valid
        rows.append(total / count.clamp_min(1))
    return torch.stack(rows)


def unpack(whitener: Tensor, channels: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Packed rows to matrices ``[H*W,C,C]``, entry by entry."""
    factor = torch.zeros(len(whitener), channels, channels, dtype=dtype)
    for i in range(channels):
        for j in range(i + 1):
            factor[:, i, j] = whitener[:, i * (i + 1) // 2 + j]
    return factor


def mahalanobis(
    x: Tensor,
    mean: Tensor,
    whitener: Tensor,
    squared: bool = False,
    *,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """``|L (x - mean)|`` location by location: ``[B,H,W]``."""
    x, mean = x.to(dtype), mean.to(dtype)
    batch, channels, height, width = x.shape
    factor = unpack(whitener, channels, dtype)
    rows = []
    for b in range(batch):
        for y in range(height):
            for z in range(width):
                white = factor[y * width + z] @ (x[b, :, y, z] - mean[:, y, z])
                square = white.square().sum()
                rows.append(square if squared else _root(square))
    return torch.stack(rows).view(batch, height, width)


def warp_affine(
    x: Tensor,
    theta: Tensor,
    size: tuple[int, int],
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    *,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """What the op replaces: a grid tensor, and sampling from it."""
    grid = F.affine_grid(theta.to(dtype), [*x.shape[:2], *size], align_corners)
    return F.grid_sample(x.to(dtype), grid, mode, padding_mode, align_corners)


def _unnormalise(coordinate: float, size: int, align_corners: bool) -> float:
    if align_corners:
        return (coordinate + 1) / 2 * (size - 1)
    return ((coordinate + 1) * size - 1) / 2


def _normalised(index: int, size: int, align_corners: bool) -> float:
    if align_corners:
        return 2 * index / (size - 1) - 1 if size > 1 else 0.0
    return (2 * index + 1) / size - 1


def _pad(position: float, size: int, padding_mode: str, align_corners: bool) -> float:
    if padding_mode == "zeros":
        return position
    if padding_mode == "reflection":
        low, high = (0.0, size - 1.0) if align_corners else (-0.5, size - 0.5)
        if high == low:
            return 0.0
        while not low <= position <= high:
            position = 2 * low - position if position < low else 2 * high - position
    return min(max(position, 0.0), size - 1.0)


def warp_affine_by_pixel(
    x: Tensor,
    theta: Tensor,
    size: tuple[int, int],
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
) -> Tensor:
    """Sampling pixel by pixel, without torch's samplers: ``[B,C,height,width]`` in float64."""
    x, theta = x.double(), theta.double()
    batch, channels, height, width = x.shape
    out = torch.zeros(batch, channels, *size, dtype=torch.float64)

    def pixel(b: int, row: int, column: int) -> Tensor:
        if 0 <= row < height and 0 <= column < width:
            return x[b, :, row, column]
        return torch.zeros(channels, dtype=torch.float64)

    for b in range(batch):
        matrix = theta[b].tolist()
        for i in range(size[0]):
            for j in range(size[1]):
                at = (
                    _normalised(j, size[1], align_corners),
                    _normalised(i, size[0], align_corners),
                    1.0,
                )
                source = [sum(m * c for m, c in zip(line, at, strict=True)) for line in matrix]
                column = _unnormalise(source[0], width, align_corners)
                row = _unnormalise(source[1], height, align_corners)
                column = _pad(column, width, padding_mode, align_corners)
                row = _pad(row, height, padding_mode, align_corners)
                if mode == "nearest":
                    out[b, :, i, j] = pixel(b, round(row), round(column))
                    continue
                top, left = math.floor(row), math.floor(column)
                down, right = row - top, column - left
                out[b, :, i, j] = (
                    pixel(b, top, left) * (1 - down) * (1 - right)
                    + pixel(b, top, left + 1) * (1 - down) * right
                    + pixel(b, top + 1, left) * down * (1 - right)
                    + pixel(b, top + 1, left + 1) * down * right
                )
    return out
