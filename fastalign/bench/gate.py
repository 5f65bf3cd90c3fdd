"""No figure without a right result: every contestant is held against the float64 reference.

The error of a tensor is the length of the difference over the length of the exact one. It may be
twice that of the reference in the case's own dtype plus a small term; baselines, whose formulas
differ more, may have a hundred times as much and still count as the same computation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastalign.bench.cases import Case
from fastalign.bench.modes import Results

_SMALL = {torch.float32: 2e-6, torch.float64: 1e-14}
BASELINE_SLACK = 100


@dataclass(frozen=True)
class Yardstick:
    """The exact results and the errors of plain PyTorch in the same dtype."""

    exact: Results
    errors: list[float]


def _small(dtype: torch.dtype) -> float:
    return _SMALL.get(dtype, torch.finfo(dtype).eps / 2)


def error(found: Tensor, exact: Tensor) -> float:
    """``|found - exact| / |exact|``; infinite where something is not finite."""
    difference = (found.double() - exact).norm().item()
    length = exact.norm().item()
    if not difference < float("inf"):
        return float("inf")
    return difference / length if length else difference


def yardstick(case: Case, inputs: Results) -> Yardstick:
    """Runs the reference in float64 and in the case's dtype."""
    reference = case.ours("reference")
    wide = [
        x.detach().double().requires_grad_(x.requires_grad) if x.is_floating_point() else x
        for x in inputs
    ]
    exact = tuple(result.double() for result in reference(*wide))
    same = reference(*inputs)
    return Yardstick(exact, [error(a, b) for a, b in zip(same, exact, strict=True)])


def judge(results: Results, against: Yardstick, baseline: bool) -> tuple[list[float], str | None]:
    """Errors of the results, and what is wrong with them or None."""
    if len(results) != len(against.exact):
        return [], f"{len(results)} results, expected {len(against.exact)}"
    errors: list[float] = []
    wrong = []
    for index, (found, exact) in enumerate(zip(results, against.exact, strict=True)):
        if found.shape != exact.shape:
            return errors, f"result {index} has shape {list(found.shape)}"
        allowed = 2 * against.errors[index] + _small(found.dtype)
        allowed *= BASELINE_SLACK if baseline else 1
        errors.append(error(found, exact))
        if not errors[-1] <= allowed:
            wrong.append(f"result {index} off by {errors[-1]:.2g}, allowed {allowed:.2g}")
    return errors, "; ".join(wrong) or None
