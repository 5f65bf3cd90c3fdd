"""Calls of mahalanobis whose kernels are compiled ahead of time."""

from __future__ import annotations

import torch
from compiling import CompileCase, locations, maps
from fastalign.kernels import mahalanobis as kernels


def _inputs(shape, dtype, stored):
    batch, channels, height, width = shape
    mean = torch.empty((channels, height, width), device="meta")
    packed = (height * width, channels * (channels + 1) // 2)
    return maps(shape, dtype), mean, torch.empty(packed, dtype=stored, device="meta")


def _forward(shape, dtype=torch.float32, stored=torch.float32):
    return lambda: kernels.mahalanobis(*_inputs(shape, dtype, stored), False)


def _backward(shape, dtype=torch.float32, stored=torch.float32):
    def call():
        inputs = _inputs(shape, dtype, stored)
        return kernels.mahalanobis_backward(locations(shape), *inputs, False, True, True, True)

    return call


# The first stands for the op where one case is enough.
CASES = [
    CompileCase("one image, 100 channels", _forward((1, 100, 64, 64))),
    CompileCase("eight images, 100 channels", _forward((8, 100, 64, 64))),
    CompileCase("bfloat16 whitener", _forward((8, 100, 64, 64), torch.float16, torch.bfloat16)),
    CompileCase("448 channels", _forward((2, 448, 56, 56))),
    CompileCase("gradients", _backward((8, 100, 64, 64))),
    CompileCase("gradients, 448 channels", _backward((8, 448, 56, 56), torch.float16)),
]
