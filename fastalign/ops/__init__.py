"""The fused operators, as functions of tensors.

Each is a ``torch.library`` op in the namespace ``fastalign`` with one schema and several backends,
differentiable, traceable by ``torch.compile`` and ``torch.export``. docs/ops.md states the
mathematics, the dtypes and the errors of each.
"""

from __future__ import annotations

from fastalign.ops import affine
from fastalign.ops.backends import BACKENDS, available_backends
from fastalign.ops.native import release_memory
from fastalign.ops.plans import forced_plan, forced_plans, plan_fields

# In the order in which pages and tables name the ops.
# isort: off
from fastalign.ops.dense_similarity import dense_similarity, dense_similarity_loss
from fastalign.ops.pairwise_distance import pairwise_distance, pairwise_distance_loss
from fastalign.ops.warp_affine import warp_affine
from fastalign.ops.mahalanobis import mahalanobis
from fastalign.ops.refine_pose import refine_pose
from fastalign.ops.anomaly_map import anomaly_map
# isort: on

__all__ = [
    "BACKENDS",
    "affine",
    "anomaly_map",
    "available_backends",
    "dense_similarity",
    "dense_similarity_loss",
    "forced_plan",
    "forced_plans",
    "mahalanobis",
    "pairwise_distance",
    "pairwise_distance_loss",
    "plan_fields",
    "refine_pose",
    "release_memory",
    "warp_affine",
]
