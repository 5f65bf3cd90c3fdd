"""The kernels of ``refine_pose``."""

from __future__ import annotations

from typing import Any

import torch

from cuda_compile.kinds import Budget, Call, maps, size_of

# 45 sums in double are 90 registers; one block of 256 threads may have all that there are.
BUDGETS = {"refine_candidates": Budget(255)}
# A small map, so that the prover walks through every thread, and the fewest sums.
PROVED = (("refine_pose(rotation,1)", (1, 1, 3, 4), "contiguous"),)


def _given(batch: int, parameters: int, side: int = 64) -> list[torch.Tensor]:
    shapes = (batch, 3, 2, 3), (side, side), (side, side), (parameters, 2, 3)
    return [maps(batch, 1, side, side), *map(torch.empty, shapes)]


def _call(batch: int, parameters: int, words: str) -> Call:
    given = _given(batch, parameters)
    return Call(
        f"refine_pose, {batch} x 64 x 64, 3 candidates, {words}, 2 steps",
        "refine_pose",
        lambda k: k.refine_pose(*given, 2),
        size_of(*given, given[1]),
    )


def launched() -> list[Call]:
    return [_call(1, 3, "rotation and shift"), _call(128, 3, "rotation and shift")]


def compiled() -> list[Any]:
    from compiling import CompileCase

    from fastalign.kernels import refine_pose as kernels

    def _call(parameters):
        def call():
            with torch.device("meta"):
                return kernels.refine_pose(*_given(8, parameters), 2)

        return call

    return [CompileCase(f"{count} parameters", _call(count)) for count in (3, 6)]
