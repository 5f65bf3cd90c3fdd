"""Training and fitting on the batches of several processes as if they were one.

Everything here works under an initialised process group of :mod:`torch.distributed` (gloo, NCCL),
with any number of images on each process, none included; without one, or in a group of one
process, it is the plain op. Losses are those of the global batch on every process, and their
gradients are made for averaging over the processes, as ``DistributedDataParallel`` does it.
"""

from __future__ import annotations

from fastalign.distributed.density import merge_density, share_density
from fastalign.distributed.distance import pairwise_distance_loss
from fastalign.distributed.gradients import average_gradients
from fastalign.distributed.launch import TIMEOUT, launched, own_device, restarted
from fastalign.distributed.norm import GlobalBatchNorm, globalise_norms
from fastalign.distributed.similarity import Targets, dense_similarity, dense_similarity_loss
from fastalign.distributed.world import World, current

__all__ = [
    "TIMEOUT",
    "GlobalBatchNorm",
    "Targets",
    "World",
    "average_gradients",
    "current",
    "dense_similarity",
    "dense_similarity_loss",
    "globalise_norms",
    "launched",
    "merge_density",
    "own_device",
    "pairwise_distance_loss",
    "restarted",
    "share_density",
]
