"""What the locations of a map have in common: how features deviate from the mean of each."""

from __future__ import annotations

import torch
from torch import Tensor


def deviations_of(values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of values ``[N,L,C]``, where ``valid [N,L]``: deviations from the mean of each location, 0
    where not valid, the means ``[L,C]``, and counts less one ``[L]`` float64."""
    values = torch.where(valid.unsqueeze(-1), values, 0)
    count = valid.sum(0)
    mean = values.sum(0) / count.clamp_min(1).unsqueeze(-1)
    deviations = torch.where(valid.unsqueeze(-1), values - mean, 0)
    return deviations, mean, (count - 1).clamp_min(0).double()


def pooled_covariance(deviations: Tensor, freedom: Tensor) -> Tensor:
    """Covariance ``[C,C]`` of all locations together, of :func:`deviations_of`."""
    flat = deviations.flatten(0, 1)
    return flat.mT @ flat / freedom.sum().clamp_min(1)
