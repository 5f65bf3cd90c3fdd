"""What the ops' definitions share. Each stands in its op's file, in loops over images and pixels:
slow, and nothing clever.

A definition takes ``dtype``, the dtype it computes in: float64 for the exact result, float32 for
what plain PyTorch makes of it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def partners(image: int, batch: int, groups: Tensor | None) -> list[int]:
    return [
        other
        for other in range(batch)
        if other != image and (groups is None or groups[other] == groups[image])
    ]


def root(square: Tensor) -> Tensor:
    """Square root with gradient 0 at 0, as the ops have it."""
    return torch.where(square == 0, 0.0, square.masked_fill(square == 0, 1).sqrt())


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine over the first dimension, 0 with a zero vector; differentiable."""
    lengths = root(first.square().sum(0)) * root(second.square().sum(0))
    zero = lengths == 0
    return torch.where(zero, 0.0, (first * second).sum(0) / lengths.masked_fill(zero, 1))
