"""Calls of dense_similarity whose kernels are compiled ahead of time."""

from __future__ import annotations

import torch
from compiling import CompileCase, labels, locations, maps
from fastalign.kernels import dense_similarity as kernels

HALF = torch.float16


def _loss(shape, dtype, channels_last=False, grouped=False):
    def call():
        p = maps(shape, dtype, channels_last)
        return kernels.dense_similarity_loss(p, p, labels(shape) if grouped else None, True, False)

    return call


def _backward(shape, dtype):
    def call():
        p = maps(shape, dtype)
        return kernels.dense_similarity_backward(locations(shape), p, p, labels(shape), False, True)

    return call


# The first stands for the op where one case is enough.
CASES = [
    CompileCase(
        "loss and gradient, float16", _loss((32, 256, 64, 64), HALF), ("similarity_kernel",)
    ),
    CompileCase(
        "loss and gradient, channels_last float16",
        _loss((32, 256, 64, 64), HALF, channels_last=True),
        ("similarity_kernel",),
    ),
    CompileCase("loss and gradient, few locations", _loss((32, 256, 14, 14), torch.float32)),
    CompileCase("gradient to z by groups, float32", _backward((16, 128, 32, 32), torch.float32)),
    CompileCase(
        "loss and gradient, long vectors",
        _loss((8, 8192, 16, 16), torch.float32, grouped=True),
        ("looped_kernel",),
    ),
]
