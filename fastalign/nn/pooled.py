"""What the locations of a map have in common: how features deviate from the mean of each."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def deviations_of(values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of values ``[N,L,C]``, where ``valid [N,L]``: deviations from the mean of each location, 0
    where not valid, the means ``[L,C]``, and counts less one ``[L]`` float64."""
    mean, count = means_of(values, valid)
    deviations = torch.where(valid.unsqueeze(-1), values - mean, 0)
    return deviations, mean, (count - 1).clamp_min(0).double()


def means_of(values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Means ``[...,C]`` of values ``[N,...,C]`` where ``valid [N,...]``, and of how many."""
    count = valid.sum(0)
    total = torch.where(valid.unsqueeze(-1), values, 0).sum(0)
    return total / count.clamp_min(1).unsqueeze(-1), count


def window_sums(maps: Tensor, radius: int) -> Tensor:
    """Of ``maps [K,h,w]`` the sums over windows of so many locations to each side, of what lies
    inside."""
    if radius == 0:
        return maps
    side = 2 * radius + 1
    return F.avg_pool2d(maps[None], side, 1, radius, divisor_override=1)[0]


def pooled_covariance(deviations: Tensor, freedom: Tensor) -> Tensor:
    """Covariance ``[C,C]`` of all locations together, of :func:`deviations_of`."""
    flat = deviations.flatten(0, 1)
    return flat.mT @ flat / freedom.sum().clamp_min(1)
