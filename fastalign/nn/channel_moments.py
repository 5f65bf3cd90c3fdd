"""Means and variances by channel from sums that add up over batches and processes."""

from __future__ import annotations

import torch
from torch import Tensor

from fastalign.ops.layout import accumulation_dtype


def channel_moments(x: Tensor) -> Tensor:
    """Number of vectors, their sum and the sum of their squares, of x ``[B,C,...]``: ``[1+2C]``
    float64.

    The squares are summed about the rounded mean: those of the raw values would have lost the
    variance. torch.var_mean does the same in one call, and takes ten times as long on a CPU.
    """
    count = x.numel() // max(1, x.shape[1])
    if count == 0:
        return x.new_zeros(1 + 2 * x.shape[1], dtype=torch.float64)
    # Inner dimensions first: their sums are quick.
    values = x.to(accumulation_dtype(x.dtype))
    rows = values.flatten(2) if x.dim() > 2 else values.unsqueeze(2)
    centre = rows.sum(2).sum(0) / count
    deviations = rows - centre[:, None]
    first = deviations.sum(2).double().sum(0)
    second = deviations.square_().sum(2).double().sum(0)
    centre = centre.double()
    squares = second + 2 * centre * first + count * centre.square()
    return torch.cat([centre.new_full((1,), count), count * centre + first, squares])


def mean_and_variance(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance ``[C]`` of :func:`channel_moments`, float64, divisor the number; 0 for no
    vectors."""
    mean, squares = (moments[1:] / moments[:1].clamp_min(1)).chunk(2)
    return mean, (squares - mean.square()).clamp_min(0)
