"""Calls of warp_affine whose kernels are compiled ahead of time."""

from __future__ import annotations

import torch
from compiling import CompileCase, maps
from fastalign.kernels import warp_affine as kernels

HALF = torch.float16


def _theta(shape, dtype=torch.float32):
    return torch.empty((shape[0], 2, 3), dtype=dtype, device="meta")


def _forward(shape, dtype, mode, padding, channels_last=False, theta=torch.float32):
    def call():
        x = maps(shape, dtype, channels_last)
        return kernels.warp_affine(x, _theta(shape, theta), shape[2:], mode, padding, False)

    return call


def _backward(shape, dtype, mode, padding, channels_last=False, theta=torch.float32):
    def call():
        x = maps(shape, dtype, channels_last)
        rest = mode, padding, False, True, True, False
        return kernels.warp_affine_backward(x, x, _theta(shape, theta), *rest)

    return call


FEATURES = (8, 64, 64, 64)
IMAGES = (8, 3, 256, 256)

# The first stands for the op where one case is enough.
CASES = [
    CompileCase(
        "gradients, border, float32", _backward(FEATURES, torch.float32, "bilinear", "border")
    ),
    CompileCase(
        "gradients, border, channels_last float16",
        _backward(FEATURES, HALF, "bilinear", "border", channels_last=True),
        ("_gather", "_theta_gradient"),
    ),
    CompileCase(
        "gradients, reflection, float64 theta",
        _backward(FEATURES, HALF, "bilinear", "reflection", theta=torch.float64),
    ),
    CompileCase(
        "gradients of images, zeros", _backward(IMAGES, torch.float32, "bilinear", "zeros")
    ),
    CompileCase("gradient, nearest", _backward(FEATURES, torch.float32, "nearest", "border")),
    CompileCase("features, float32", _forward(FEATURES, torch.float32, "bilinear", "border")),
    CompileCase(
        "features, channels_last float16",
        _forward(FEATURES, HALF, "bilinear", "zeros", channels_last=True),
        ("_forward",),
    ),
    CompileCase(
        "features, channels_last float32, 24 channels",
        _forward((8, 24, 64, 64), torch.float32, "bilinear", "border", channels_last=True),
        ("_forward",),
    ),
    CompileCase("images, nearest", _forward(IMAGES, torch.float32, "nearest", "reflection")),
]
