"""Means and variances by channel from sums that add up over batches and processes."""

from __future__ import annotations

import torch
from torch import Tensor

from fastalign.ops.layout import accumulation_dtype


def channel_moments(x: Tensor) -> Tensor:
    """Number of vectors, their sum and the sum of their squares, of x ``[B,C,...]``: ``[1+2C]``
    float64.

    The variance is taken about the mean first: sums of float32 squares would have lost it.
    """
    count = x.numel() // max(1, x.shape[1])
    if count == 0:
        return x.new_zeros(1 + 2 * x.shape[1], dtype=torch.float64)
    dims = [0, *range(2, x.dim())]
    variance, mean = torch.var_mean(x.to(accumulation_dtype(x.dtype)), dims, correction=0)
    mean = mean.double()
    return torch.cat([mean.new_ones(1), mean, variance.double() + mean.square()]) * count


def mean_and_variance(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance ``[C]`` of :func:`channel_moments`, float64, divisor the number; 0 for no
    vectors."""
    mean, squares = (moments[1:] / moments[:1].clamp_min(1)).chunk(2)
    return mean, (squares - mean.square()).clamp_min(0)
