"""The kernels of ``warp_affine``."""

from __future__ import annotations

from typing import Any

import torch

from cuda_compile.kinds import WIDE, Budget, Call, maps, size_of

# Whole fours of float32; of 16 bits they are 8 bytes.
FOURS = r"<float, true\b"
BUDGETS = {
    "warp_pixels": Budget(64, wide_loads=WIDE, wide_stores=WIDE),
    "warp_planes": Budget(64),
    "warp_patches": Budget(80, wide_loads=FOURS),
    "make_plans": Budget(160),
    "backward_patches": Budget(128, wide_loads=FOURS),  # 96 on Hopper, for five blocks
    "gather_pixels": Budget(96, wide_loads=WIDE, wide_stores=WIDE),
    "gather_planes": Budget(80),
    "sweep": Budget(152),
    "theta_pixels": Budget(64, wide_loads=WIDE),
    "theta_planes": Budget(64),
    "finish_theta": Budget(40),
}
# Small maps, one of them for each kernel and vector width: the prover walks through every thread.
PROVED = (
    ("warp_affine(same size)", (1, 3, 2, 4), "contiguous"),
    ("warp_affine(same size)", (1, 3, 2, 4), "channels_last"),  # too few for lanes
    ("warp_affine(same size)", (1, 8, 2, 4), "channels_last"),
    ("warp_affine(same size)", (1, 5, 2, 4), "channels_last"),
    ("warp_affine_backward(same size)", (1, 3, 2, 4), "contiguous"),
    ("warp_affine_backward(same size)", (1, 3, 2, 4), "channels_last"),
    ("warp_affine_backward(same size)", (1, 8, 2, 4), "channels_last"),
    ("warp_affine_backward(same size)", (1, 5, 2, 4), "channels_last"),
)


def _warp(shape: tuple[int, ...], dtype: torch.dtype, last: bool, words: str) -> list[Call]:
    x, theta = maps(*shape, dtype=dtype, last=last), torch.eye(2, 3).repeat(shape[0], 1, 1)
    options = "bilinear", "zeros", False
    size = " x ".join(map(str, shape))
    return [
        Call(
            f"warp_affine, {size}, {words}",
            "warp_affine",
            lambda k: k.warp_affine(x, theta, shape[2:], *options),
            2 * size_of(x),
        ),
        Call(
            f"warp_affine_backward, x and theta, {size}, {words}",
            "warp_affine",
            lambda k: k.warp_affine_backward(x, x, theta, *options, True, True, True),
            3 * size_of(x),
        ),
    ]


def launched() -> list[Call]:
    single, half = torch.float32, torch.bfloat16
    return [
        *_warp((32, 3, 224, 224), single, False, "float32"),
        *_warp((32, 64, 56, 56), half, True, "bfloat16, channels_last"),
    ]


def compiled() -> list[Any]:
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

    return [
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
