"""Mahalanobis distance per location: Triton kernels.

The distance from a packed inverse Cholesky factor and the reasons of its design are in
``mahalanobis_distance``, its gradients in ``mahalanobis_backward``, the low-rank form in
``mahalanobis_low_rank``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastalign.kernels.common import float64_limit
from fastalign.kernels.mahalanobis_backward import mahalanobis_backward
from fastalign.kernels.mahalanobis_distance import run_distance
from fastalign.kernels.mahalanobis_low_rank import low_rank_distance
from fastalign.ops.layout import empty_locations

__all__ = ["can_run", "mahalanobis", "mahalanobis_backward"]


def can_run(op: str, x: Tensor, *others: Tensor) -> str | None:
    """Why the kernels cannot serve these tensors, or None."""
    return float64_limit(x)


def mahalanobis(
    x: Tensor,
    mean: Tensor,
    whitener: Tensor,
    coarse: Tensor | None,
    scale: Tensor | None,
    squared: bool,
) -> Tensor:
    """See ``fastalign.ops.mahalanobis``."""
    out = empty_locations(x)
    if x.numel() == 0:
        return out.zero_()
    with torch.cuda.device_of(x):
        given = x, mean, whitener, squared, coarse, scale
        if whitener.dim() == 3:
            low_rank_distance("mahalanobis", out, None, None, None, *given)
        else:
            run_distance("mahalanobis", out, None, None, *given)
    return out
