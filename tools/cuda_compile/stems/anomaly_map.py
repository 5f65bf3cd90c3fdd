"""The kernels of ``anomaly_map``."""

from __future__ import annotations

from typing import Any

import torch

from cuda_compile.kinds import Budget, Call, maps, size_of

BUDGETS = {"map_rows": Budget(64), "map_columns": Budget(64)}
# A small map, so that the prover walks through every thread.
PROVED = (("anomaly_map(one tap)", (1, 1, 2, 3), "contiguous"),)


def _given(batch: int, side: int, taps: int) -> list[torch.Tensor]:
    evidence = torch.ones(batch, side, side, dtype=torch.bool)
    return [maps(batch, 1, side, side), torch.empty(batch, 2, 3), evidence, torch.empty(taps)]


def _call(batch: int, side: int, size: int, words: str) -> Call:
    given = _given(batch, side, 33)
    return Call(
        f"anomaly_map, {batch} x {side} x {side} to {size} x {size}, {words}",
        "anomaly_map",
        lambda k: k.anomaly_map(*given, (size, size)),
        size_of(*given) + 8 * batch * size * size,
    )


def launched() -> list[Call]:
    return [_call(1, 32, 256, "33 taps"), _call(128, 32, 256, "33 taps")]


def compiled() -> list[Any]:
    from compiling import CompileCase

    from fastalign.kernels import anomaly_map as kernels

    def call():
        with torch.device("meta"):
            return kernels.anomaly_map(*_given(8, 32, 33), (256, 256))

    return [CompileCase("33 taps", call)]
