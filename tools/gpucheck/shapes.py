"""Larger random inputs than the tests of the ops use, against the float64 reference on the same
device, and one backend against the other.

``python -m gpucheck.shapes --device cuda --out FILE [--part K/N]``. Cases, layouts and tolerances
are those of tests/ops. Shapes are chosen so that vector widths, tiles and warps do not divide them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpucheck import inplace
from gpucheck.records import Skip, run_checks

sys.path.insert(0, str(inplace.ROOT / "tests" / "ops"))

import torch  # noqa: E402
from op_support import stems  # noqa: E402
from op_support.cases import CASES, Case, Inputs, as_tuple, short  # noqa: E402
from op_support.layouts import LAYOUTS  # noqa: E402
from op_support.tolerance import assert_accurate, edge_band, small_term  # noqa: E402
from torch import Tensor  # noqa: E402

from fastalign import ops  # noqa: E402
from fastalign.ops import reference  # noqa: E402
from fastalign.ops.schema import stem_of  # noqa: E402

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def offset_by_one(x: Tensor) -> Tensor:
    """Contiguous, but its first element lies one after an aligned address."""
    larger = x.new_empty(x.numel() + 1)
    return larger[1:].view(x.shape).copy_(x)


LAYOUTS["offset by one"] = offset_by_one
CHOSEN_LAYOUTS = ("contiguous", "channels_last", "offset by one", "sliced")


def _warp_cases() -> Iterator[Case]:
    """The tests' own sizes are tiny; here the output is as large as the input, or larger."""
    for mode in ("bilinear", "nearest"):
        for padding in ("zeros", "border", "reflection"):
            for corners in (False, True):
                rest = mode, padding, corners
                words = ",".join([mode, padding, *(["align_corners"] if corners else [])])
                yield Case(
                    "warp_affine",
                    words,
                    lambda i, rest=rest: (i.features(), i.theta(), _larger(i.shape), *rest),
                )
                yield Case(
                    "warp_affine_backward",
                    words,
                    lambda i, rest=rest: (
                        i.other_size(*_larger(i.shape)),
                        i.features(),
                        i.theta(),
                        *rest,
                        True,
                        True,
                        True,
                    ),
                )


def _larger(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[2] + 7, shape[3] * 2 // 3


def every_case() -> list[Case]:
    return [*(case for case in CASES if not case.op.startswith("warp")), *_warp_cases()]


def _wide(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        value.detach().double()
        if isinstance(value, Tensor) and value.is_floating_point()
        else value
        for value in arguments
    )


def _without_edges(case: Case, arguments: tuple[Any, ...]) -> Tensor | None:
    """Takes away what hangs on the rounding of a position: pixels, or the gradient there."""
    if case.op == "warp_affine":
        x, theta, size, mode, _, corners = arguments
        band = edge_band(theta, tuple(x.shape[2:]), size, corners, mode)
        return band.unsqueeze(1) if mode == "nearest" else None
    if case.op == "warp_affine_backward":
        grad, x, theta, mode, _, corners, *_ = arguments
        band = edge_band(theta, tuple(x.shape[2:]), tuple(grad.shape[2:]), corners, mode)
        grad.masked_fill_(band.unsqueeze(1).to(grad.device), 0)
    return None


def check(
    case: Case, shape: Any, dtype: torch.dtype, layout: str, device: str, backends: list[str]
) -> dict[str, Any]:
    """Every backend against float64, and against each other; returns the errors over the bound."""
    arguments = case.make(Inputs(dtype, device, layout, shape, seed=1))
    tensors = [value for value in arguments if isinstance(value, Tensor)]
    able = ops.available_backends(case.op, *tensors)
    running = [name for name in backends if able[name] is None]
    if not running:
        raise Skip("; ".join(f"{name}: {able[name]}" for name in backends))
    ignore = _without_edges(case, arguments)
    kernel = reference.kernel(case.op)
    exact, same = as_tuple(kernel(*_wide(arguments))), as_tuple(kernel(*arguments))
    found, wrong = {}, []
    for name in running:
        try:
            op = getattr(torch.ops.fastalign, case.op)
            found[name] = as_tuple(op(*arguments, backend=name))
            for index, (out, best, plain) in enumerate(zip(found[name], exact, same, strict=True)):
                assert_accurate(out, best, plain, ignore=ignore, name=f"result {index}")
        except (AssertionError, RuntimeError) as error:
            if "CUDA error" in str(error):
                raise
            wrong.append(f"{name}: {error}")
    detail: dict[str, Any] = {"backends": running}
    if len(found) == 2:
        detail["between"] = apart = _apart(*found.values(), exact, same, ignore)
        if apart > 1:
            wrong.append(f"{' and '.join(found)} differ by {apart:.2f} of what both may be off")
    if wrong:
        raise AssertionError("; ".join(wrong))
    return detail


def _apart(first, second, exact, same, ignore) -> float:
    """Largest difference of two results over the sum of their bounds."""
    worst = 0.0
    for one, two, best, plain in zip(first, second, exact, same, strict=True):
        if not best.numel():
            continue
        # Bounds as in assert_accurate, for two results that may err to opposite sides.
        allowed = 2 * (
            small_term(best.double(), one.dtype)
            + 2 * (plain.double() - best.double()).abs().max().item()
        )
        difference = (one.double() - two.double()).abs()
        if ignore is not None:
            difference = difference.masked_fill(ignore.to(difference.device), 0)
        worst = max(worst, difference.max().item() / allowed)
    return worst


def checks(device: str, backends: list[str]) -> dict[str, Callable[[], Any]]:
    """Each case on each shape of its op, dtypes and layouts taken in turns."""
    result = {}
    turn = 0
    for case in every_case():
        for shape in stems.of(stem_of(case.op)).LARGE:
            dtype = DTYPES[turn % len(DTYPES)]
            layout = CHOSEN_LAYOUTS[(turn // len(DTYPES)) % len(CHOSEN_LAYOUTS)]
            turn += 1
            size = "x".join(map(str, shape))
            name = f"{case} {size} {short(dtype)} {layout}"
            result[name] = lambda given=(case, shape, dtype, layout): check(
                *given, device, backends
            )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backends", nargs="+", default=["cuda", "triton"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", default="1/1")
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))
    every = list(checks(options.device, options.backends).items())
    run_checks(dict(every[part - 1 :: parts]), options.out)


if __name__ == "__main__":
    main()
