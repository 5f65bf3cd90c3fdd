"""The kernels of ``dense_similarity``."""

from __future__ import annotations

from typing import Any

import torch

from cuda_compile.kinds import WIDE, Budget, Call, maps, size_of

# Small maps, one of them for each kernel and vector width: the prover walks through every thread.
_WHOLE, _ODD = (2, 8, 1, 8), (2, 5, 1, 3)

BUDGETS = {
    "dense_similarity_tile": Budget(112, wide_loads=WIDE, wide_stores=WIDE),
}
PROVED = (
    ("dense_similarity", _WHOLE, "contiguous"),
    ("dense_similarity", _WHOLE, "channels_last"),
    ("dense_similarity", _ODD, "contiguous"),
    ("dense_similarity_loss(p=1,z=0)", _ODD, "contiguous"),
    ("dense_similarity_backward(p=1,z=1)", _WHOLE, "contiguous"),
    ("dense_similarity_backward(p=1,z=1)", _WHOLE, "channels_last"),
    ("dense_similarity_backward(p=1,z=1)", _ODD, "contiguous"),
    ("dense_similarity(groups)", _ODD, "contiguous"),
)


def _similarity(dtype: torch.dtype, last: bool, words: str) -> Call:
    p, z = maps(32, 256, 28, 28, dtype=dtype, last=last), maps(32, 256, 28, 28, dtype=dtype)
    z = z.contiguous(memory_format=torch.channels_last) if last else z
    return Call(
        f"dense_similarity_loss and dp, 32 x 256 x 28 x 28, {words}",
        "dense_similarity",
        lambda k: k.dense_similarity_loss(p, z, None, True, False),
        size_of(p, z, p),
    )


def launched() -> list[Call]:
    single, half = torch.float32, torch.bfloat16
    return [
        _similarity(single, False, "float32"),
        _similarity(half, True, "bfloat16, channels_last"),
    ]


def compiled() -> list[Any]:
    from compiling import CompileCase, labels, locations, maps

    from fastalign.kernels import dense_similarity as kernels

    HALF = torch.float16

    def _loss(shape, dtype, channels_last=False, grouped=False):
        def call():
            p = maps(shape, dtype, channels_last)
            return kernels.dense_similarity_loss(
                p, p, labels(shape) if grouped else None, True, False
            )

        return call

    def _backward(shape, dtype):
        def call():
            p = maps(shape, dtype)
            return kernels.dense_similarity_backward(
                locations(shape), p, p, labels(shape), False, True
            )

        return call

    return [
        CompileCase(
            "loss and gradient, float16", _loss((32, 256, 64, 64), HALF), ("similarity_kernel",)
        ),
        CompileCase(
            "loss and gradient, channels_last float16",
            _loss((32, 256, 64, 64), HALF, channels_last=True),
            ("similarity_kernel",),
        ),
        CompileCase("loss and gradient, few locations", _loss((32, 256, 14, 14), torch.float32)),
        CompileCase(
            "gradient to z by groups, float32", _backward((16, 128, 32, 32), torch.float32)
        ),
        CompileCase(
            "loss and gradient, long vectors",
            _loss((8, 8192, 16, 16), torch.float32, grouped=True),
            ("looped_kernel",),
        ),
    ]
