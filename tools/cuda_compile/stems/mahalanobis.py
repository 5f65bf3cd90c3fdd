"""The kernels of ``mahalanobis``."""

from __future__ import annotations

from typing import Any

import torch

from cuda_compile.kinds import Budget, Call, maps, size_of

BUDGETS = {
    "mahalanobis_forward": Budget(96, wide_loads="<"),
    "mahalanobis_gradients": Budget(96, wide_loads="<"),
    "mahalanobis_finish": Budget(40),
    "low_rank_forward": Budget(96, wide_loads="<"),
    "low_rank_gradients": Budget(96, wide_loads="<"),
}
# Small maps, one of them for each kernel and vector width: the prover walks through every thread.
PROVED = (
    ("mahalanobis", (1, 5, 1, 2), "contiguous"),
    ("mahalanobis", (3, 5, 1, 2), "contiguous"),
    ("mahalanobis", (5, 5, 1, 2), "contiguous"),
    ("mahalanobis", (1, 130, 1, 1), "contiguous"),
    ("mahalanobis_backward", (1, 5, 1, 2), "contiguous"),
    ("mahalanobis_backward", (3, 5, 1, 2), "contiguous"),
    ("mahalanobis(low rank)", (1, 5, 1, 2), "contiguous"),
    ("mahalanobis(low rank)", (3, 5, 1, 2), "contiguous"),
    ("mahalanobis_backward(low rank)", (1, 5, 1, 2), "contiguous"),
    ("mahalanobis_backward(low rank)", (3, 5, 1, 2), "contiguous"),
)


def _factors(shape: tuple[int, ...], stored: torch.dtype, rank: int | None) -> torch.Tensor:
    _, channels, height, width = shape
    packed = (channels * (channels + 1) // 2,)
    sizes = packed if rank is None else (rank, channels)
    return torch.empty(height * width, *sizes, dtype=stored)


def _gaussian(
    shape: tuple[int, ...],
    stored: torch.dtype,
    words: str,
    back: bool = False,
    rank: int | None = None,
) -> Call:
    batch, _, height, width = shape
    x, mean = maps(*shape, last=rank is not None), torch.empty(shape[1:])
    factors = _factors(shape, stored, rank)
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
        lambda k: k.mahalanobis(x, mean, factors, None, None, False),
        moved,
    )


def _of_stages(batch: int) -> Call:
    """As a default model scores 256 x 256 pixels."""
    shape = (batch, 152, 32, 32)
    x, mean, coarse = maps(*shape, last=True), torch.empty(shape[1:]), maps(batch, 152, 16, 16)
    factors, scale = _factors(shape, torch.float16, 64), torch.empty(32, 32)
    return Call(
        f"mahalanobis, {batch} x 152 x 32 x 32, rank 64 in float16, coarser map and scale",
        "mahalanobis",
        lambda k: k.mahalanobis(x, mean, factors, coarse, scale, False),
        size_of(x, mean, factors, coarse, scale) + 4 * batch * 32 * 32,
    )


def launched() -> list[Call]:
    single, half = torch.float32, torch.bfloat16
    return [
        _gaussian((1, 100, 64, 64), single, "float32 factors"),
        _gaussian((1, 100, 64, 64), half, "bfloat16 factors"),
        _gaussian((32, 100, 64, 64), single, "float32 factors"),
        _gaussian((1, 1000, 8, 8), single, "float32 factors"),
        _gaussian((1, 100, 64, 64), single, "float32 factors", back=True),
        _gaussian((1, 176, 64, 64), single, "rank 32, channels_last", rank=32),
        _gaussian((1, 176, 64, 64), torch.float16, "rank 32 in float16, channels_last", rank=32),
        _gaussian((32, 176, 64, 64), single, "rank 32, channels_last", rank=32),
        _gaussian((1, 176, 64, 64), single, "rank 32, channels_last", back=True, rank=32),
        _of_stages(1),
        _of_stages(64),
    ]


def compiled() -> list[Any]:
    from compiling import CompileCase, locations, maps

    from fastalign.kernels import mahalanobis as kernels

    HALF = torch.float16

    def _inputs(shape, dtype, stored, rank):
        mean = torch.empty(shape[1:], device="meta")
        with torch.device("meta"):
            return maps(shape, dtype), mean, _factors(shape, stored, rank)

    def _forward(shape, dtype=torch.float32, stored=torch.float32, rank=None):
        return lambda: kernels.mahalanobis(*_inputs(shape, dtype, stored, rank), None, None, False)

    def _of_stages():
        inputs = _inputs((8, 152, 32, 32), torch.float32, HALF, 64)
        coarse, scale = maps((8, 152, 16, 16), torch.float32), torch.empty(32, 32, device="meta")
        return kernels.mahalanobis(*inputs, coarse, scale, False)

    def _backward(shape, dtype=torch.float32, stored=torch.float32, rank=None):
        def call():
            inputs = _inputs(shape, dtype, stored, rank)
            return kernels.mahalanobis_backward(locations(shape), *inputs, False, True, True, True)

        return call

    return [
        CompileCase("one image, 100 channels", _forward((1, 100, 64, 64))),
        CompileCase("eight images, 100 channels", _forward((8, 100, 64, 64))),
        CompileCase("bfloat16 whitener", _forward((8, 100, 64, 64), torch.float16, torch.bfloat16)),
        CompileCase("448 channels", _forward((2, 448, 56, 56))),
        CompileCase("gradients", _backward((8, 100, 64, 64))),
        CompileCase("gradients, 448 channels", _backward((8, 448, 56, 56), torch.float16)),
        CompileCase("rank 32, one image", _forward((1, 176, 64, 64), rank=32)),
        CompileCase("rank 32, eight images", _forward((8, 176, 64, 64), rank=32)),
        CompileCase(
            "rank 64, 448 channels, float16", _forward((8, 448, 56, 56), HALF, HALF, rank=64)
        ),
        CompileCase("rank 64, coarser map and scale", _of_stages),
        CompileCase("gradients, rank 32", _backward((8, 176, 64, 64), rank=32)),
    ]
