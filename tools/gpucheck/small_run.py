"""A few small calls of every op on one backend, and nothing else: what compute-sanitizer watches.

``compute-sanitizer ... python -m gpucheck.small_run --backend cuda``. Inputs are made on the CPU,
so that few kernels of others are watched as well. Prints the number of calls so far.
"""

from __future__ import annotations

import argparse
import sys

from gpucheck import inplace

sys.path.insert(0, str(inplace.ROOT / "tests" / "ops"))

import torch  # noqa: E402
from op_support.cases import CASES, Inputs, as_tuple  # noqa: E402
from torch import Tensor  # noqa: E402

from fastalign import ops  # noqa: E402

# Odd sizes, then one that fills vectors and several warps.
SHAPES = ((6, 7, 5, 9), (3, 40, 8, 12))
KINDS = (
    (torch.float32, "contiguous"),
    (torch.bfloat16, "channels_last"),
    (torch.float16, "sliced"),
)


def laid_out_like(value: Tensor, device: str) -> Tensor:
    """A copy on the device with the same strides."""
    if not value.numel():
        return value.to(device)
    span = 1 + sum((n - 1) * step for n, step in zip(value.shape, value.stride(), strict=True))
    storage = torch.as_strided(value, (span,), (1,)).to(device)
    return torch.as_strided(storage, value.shape, value.stride())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", default="", help="ops whose name begins with it")
    parser.add_argument("--few", action="store_true", help="one shape; for the slow tools")
    options = parser.parse_args()
    chosen = [case for case in CASES if case.op.startswith(options.only)]
    calls = 0
    for shape in SHAPES[:1] if options.few else SHAPES:
        for turn, case in enumerate(chosen):
            # All kinds for the first shape unless few are wanted, then in turns.
            kinds = KINDS if shape == SHAPES[0] and not options.few else (KINDS[turn % 3],)
            for dtype, layout in kinds:
                arguments = case.make(Inputs(dtype, "cpu", layout, shape))
                placed = [
                    laid_out_like(value, options.device) if isinstance(value, Tensor) else value
                    for value in arguments
                ]
                tensors = [value for value in placed if isinstance(value, Tensor)]
                if ops.available_backends(case.op, *tensors)[options.backend] is not None:
                    continue
                op = getattr(torch.ops.fastalign, case.op)
                results = as_tuple(op(*placed, backend=options.backend))
                calls += len(results) > 0
                if options.device == "cuda":
                    torch.cuda.synchronize()
            print(f"calls: {calls}", flush=True)


if __name__ == "__main__":
    main()
