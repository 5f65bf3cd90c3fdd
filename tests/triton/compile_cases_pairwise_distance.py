"""Calls of pairwise_distance whose kernels are compiled ahead of time."""

from __future__ import annotations

import torch
from compiling import CompileCase, labels, locations, maps, validity
from fastalign.kernels import pairwise_distance as kernels


def _loss(shape, dtype, masked=False, channels_last=False, squared=False):
    def call():
        mask = validity(shape) if masked else None
        h = maps(shape, dtype, channels_last)
        return kernels.pairwise_distance_loss(h, mask, None, squared, True)

    return call


def _backward(shape, dtype):
    def call():
        h = maps(shape, dtype)
        return kernels.pairwise_distance_backward(
            locations(shape), h, validity(shape), labels(shape), False
        )

    return call


RGB = (32, 3, 224, 224)

# The first stands for the op where one case is enough.
CASES = [
    CompileCase("loss and gradient, float32", _loss(RGB, torch.float32)),
    CompileCase("loss and gradient, masked float32", _loss(RGB, torch.float32, masked=True)),
    CompileCase(
        "loss and gradient, channels_last float16", _loss(RGB, torch.float16, channels_last=True)
    ),
    CompileCase("squared loss and gradient, float32", _loss(RGB, torch.float32, squared=True)),
    CompileCase("gradient by mask and groups, bfloat16", _backward(RGB, torch.bfloat16)),
    CompileCase(
        "loss and gradient of features, float16",
        _loss((32, 256, 28, 28), torch.float16),
        ("vectors_kernel",),
    ),
]
