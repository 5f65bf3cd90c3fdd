"""The Triton kernels with the oldest Triton that the project runs with, which is another package.

Run as a program by :mod:`records.oldest`, with that Triton on the path: what it compiles for one
unit, as JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import astuple
from types import SimpleNamespace
from typing import Any

import torch

ARITHMETIC = "arithmetic"  # of gpu-check, which runs on a GPU only
TARGET = "sm_90"
_SIZES = (1, 2, 37)
_DTYPES = {
    "fma_float64": torch.float64,
    "to_bfloat16": torch.bfloat16,
    "to_half": torch.float16,
    "to_int32": torch.int32,
}


def _arithmetic() -> None:
    """Every kernel of gpu-check's arithmetic, as that calls them."""
    from gpucheck import arithmetic_triton

    def values(dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(4096, dtype=dtype, device="meta")

    for name in arithmetic_triton.KERNELS:
        dtype = _DTYPES.get(name, torch.float32)
        given = {"fma_float64": torch.float64, "from_half": torch.float16}
        a = values(given.get(name, torch.float32))
        arithmetic_triton.compute(name, (a, a, a), dtype)
    for size in _SIZES:
        for padding in (0, 1, 2):
            for align, nearest in ((False, False), (True, True)):
                arithmetic_triton.pixels(values(torch.float64), size, padding, align, nearest)


def compiled(unit: str) -> list[dict[str, Any]]:
    """What each launch takes, by case.

    Raises:
        Exception: of Triton's, where something does not compile.
    """
    from compiling import CompileCase, launches_of, resources
    from cuda_compile import stems

    arithmetic = SimpleNamespace(compiled=lambda: [CompileCase(ARITHMETIC, _arithmetic)])
    cases = (arithmetic if unit == ARITHMETIC else stems.of(unit)).compiled()
    return [
        {
            "case": case.name,
            "launches": [
                list(astuple(resources(case, launch, TARGET))[1:]) for launch in launches_of(case)
            ],
        }
        for case in cases
    ]


if __name__ == "__main__":
    print(json.dumps(compiled(sys.argv[1])))
