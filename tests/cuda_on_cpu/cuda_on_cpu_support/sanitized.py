"""A program: every case of an op over the kernels that AddressSanitizer and UBSan watch.

``python -m cuda_on_cpu_support.sanitized OP`` in tests/cuda_on_cpu, with the sanitizers' runtimes
loaded first; a finding ends it. Tensors lie in torch's own memory, which the sanitizer knows.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent / "ops"), str(HERE.parents[1])]

import torch  # noqa: E402
from op_support.cases import Inputs  # noqa: E402
from op_support.layouts import LAYOUTS  # noqa: E402

from cuda_on_cpu_support import backend  # noqa: E402
from cuda_on_cpu_support.builder import SANITIZED, SCHEDULES  # noqa: E402
from cuda_on_cpu_support.checks import ALL_CASES, check_case  # noqa: E402

SHAPES = ((3, 16, 3, 8), (5, 7, 3, 5), (2, 3, 4, 9), (1, 1, 1, 1))


def main() -> None:
    torch.set_num_threads(1)
    backend.register()
    (op,) = sys.argv[1:]
    kernels = backend.serve(backend.build(SANITIZED, [op]))
    calls = 0
    for turn, case in enumerate(ALL_CASES):
        if kernels.library(case.op) is None:
            continue
        for step, shape in enumerate(SHAPES):
            kernels.library(case.op).schedule(SCHEDULES[(turn + step) % len(SCHEDULES)])
            layout = list(LAYOUTS)[(turn + step) % len(LAYOUTS)]
            dtype = backend.DTYPES[(turn // 2 + step) % 3]
            check_case(case, backend.BACKEND, Inputs(dtype, "cpu", layout, shape))
            calls += 1
    print(f"{calls} calls")


if __name__ == "__main__":
    main()
