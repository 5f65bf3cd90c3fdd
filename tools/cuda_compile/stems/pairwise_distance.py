"""The kernels of ``pairwise_distance``."""

from __future__ import annotations

from typing import Any

import torch

from cuda_compile.kinds import Budget, Call, maps, size_of

BUDGETS = {
    "pair_any": Budget(80),
    "pair_squared": Budget(80),
    "pair_tiles": Budget(160),
}
# Small maps, one of them for each kernel and vector width: the prover walks through every thread.
PROVED = (
    ("pairwise_distance", (9, 3, 2, 3), "contiguous"),
    ("pairwise_distance_backward", (9, 3, 2, 3), "contiguous"),
    ("pairwise_distance", (9, 1, 2, 3), "contiguous"),
    ("pairwise_distance_backward", (9, 1, 2, 3), "contiguous"),
    ("pairwise_distance", (3, 16, 1, 3), "contiguous"),
    ("pairwise_distance_backward(squared)", (3, 16, 1, 3), "contiguous"),
)


def _distance(dtype: torch.dtype, words: str) -> Call:
    h = maps(32, 3, 224, 224, dtype=dtype)
    return Call(
        f"pairwise_distance_loss and dh, 32 x 3 x 224 x 224, {words}",
        "pairwise_distance",
        lambda k: k.pairwise_distance_loss(h, None, None, False, True),
        2 * size_of(h),
    )


def launched() -> list[Call]:
    return [_distance(torch.float32, "float32")]


def compiled() -> list[Any]:
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

    return [
        CompileCase("loss and gradient, float32", _loss(RGB, torch.float32)),
        CompileCase("loss and gradient, masked float32", _loss(RGB, torch.float32, masked=True)),
        CompileCase(
            "loss and gradient, channels_last float16",
            _loss(RGB, torch.float16, channels_last=True),
        ),
        CompileCase("squared loss and gradient, float32", _loss(RGB, torch.float32, squared=True)),
        CompileCase("gradient by mask and groups, bfloat16", _backward(RGB, torch.bfloat16)),
        CompileCase(
            "loss and gradient of features, float16",
            _loss((32, 256, 28, 28), torch.float16),
            ("vectors_kernel",),
        ),
    ]
