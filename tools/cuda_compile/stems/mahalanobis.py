"""The kernels of ``mahalanobis``."""

from __future__ import annotations

from typing import Any

import torch

from cuda_compile.kinds import Budget, Call, maps, size_of

BUDGETS = {
    "mahalanobis_forward": Budget(96, wide_loads="<"),
    "mahalanobis_gradients": Budget(96, wide_loads="<"),
    "mahalanobis_finish": Budget(40),
}
# Small maps, one of them for each kernel and vector width: the prover walks through every thread.
PROVED = (
    ("mahalanobis", (1, 5, 1, 2), "contiguous"),
    ("mahalanobis", (3, 5, 1, 2), "contiguous"),
    ("mahalanobis", (5, 5, 1, 2), "contiguous"),
    ("mahalanobis", (1, 130, 1, 1), "contiguous"),
    ("mahalanobis_backward", (1, 5, 1, 2), "contiguous"),
    ("mahalanobis_backward", (3, 5, 1, 2), "contiguous"),
)


def _gaussian(shape: tuple[int, ...], stored: torch.dtype, words: str, back: bool = False) -> Call:
    batch, channels, height, width = shape
    x, mean = maps(*shape), torch.empty(shape[1:])
    factors = torch.empty(height * width, channels * (channels + 1) // 2, dtype=stored)
    grad = torch.empty(batch, height, width)
    size = " x ".join(map(str, shape))
    moved = size_of(x, mean, factors, grad)
    if back:
        return Call(
            f"mahalanobis_backward, x, {size}, {words}",
            "mahalanobis",
            lambda k: k.mahalanobis_backward(grad, x, mean, factors, False, True, False, False),
            moved + size_of(x),
        )
    return Call(
        f"mahalanobis, {size}, {words}",
        "mahalanobis",
        lambda k: k.mahalanobis(x, mean, factors, False),
        moved,
    )


def launched() -> list[Call]:
    single, half = torch.float32, torch.bfloat16
    return [
        _gaussian((1, 100, 64, 64), single, "float32 factors"),
        _gaussian((1, 100, 64, 64), half, "bfloat16 factors"),
        _gaussian((32, 100, 64, 64), single, "float32 factors"),
        _gaussian((1, 1000, 8, 8), single, "float32 factors"),
        _gaussian((1, 100, 64, 64), single, "float32 factors", back=True),
    ]


def compiled() -> list[Any]:
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

    return [
        CompileCase("one image, 100 channels", _forward((1, 100, 64, 64))),
        CompileCase("eight images, 100 channels", _forward((8, 100, 64, 64))),
        CompileCase("bfloat16 whitener", _forward((8, 100, 64, 64), torch.float16, torch.bfloat16)),
        CompileCase("448 channels", _forward((2, 448, 56, 56))),
        CompileCase("gradients", _backward((8, 100, 64, 64))),
        CompileCase("gradients, 448 channels", _backward((8, 448, 56, 56), torch.float16)),
    ]
