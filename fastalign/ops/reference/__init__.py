"""The ops in plain PyTorch: they define what every backend computes.

Closed forms without autograd: each op and each backward op is a function of its own, with the
arguments of the schema minus ``backend``.
"""

from __future__ import annotations

from fastalign.ops.reference.dense_similarity import (
    dense_similarity,
    dense_similarity_backward,
    dense_similarity_loss,
)
from fastalign.ops.reference.mahalanobis import mahalanobis, mahalanobis_backward
from fastalign.ops.reference.pairwise_distance import (
    pairwise_distance,
    pairwise_distance_backward,
    pairwise_distance_loss,
)
from fastalign.ops.reference.warp_affine import warp_affine, warp_affine_backward

__all__ = [
    "dense_similarity",
    "dense_similarity_backward",
    "dense_similarity_loss",
    "mahalanobis",
    "mahalanobis_backward",
    "pairwise_distance",
    "pairwise_distance_backward",
    "pairwise_distance_loss",
    "warp_affine",
    "warp_affine_backward",
]
