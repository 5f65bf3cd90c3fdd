"""The Triton twins in the same calls: compiled ahead of time, as tests/triton does."""

from __future__ import annotations

import sys
from functools import cache
from types import SimpleNamespace

import torch

from cuda_compile import stems
from cuda_compile.toolchain import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests" / "triton"))

from compiling import (  # noqa: E402
    TARGETS,
    CompileCase,
    Resources,
    launches_of,
    resources,
)

# Compiling takes seconds for each kernel and chip: one large chip and one small.
SHOWN = ("sm_90", "sm_120")
EVERY = ("sm_90", "gfx942")
OTHERS = tuple(name for name in TARGETS if name not in EVERY)


@cache
def _ops() -> SimpleNamespace:
    """Every op by name."""
    from fastalign.ops import triton_kernels
    from fastalign.ops.schema import SCHEMAS

    return SimpleNamespace(**{op: triton_kernels.kernel(op) for op in SCHEMAS})


def compiled_cases(stem: str) -> list[tuple[str, str, list[Resources]]]:
    """What the launches of every compiled case of an op take, by case and target: every case for
    one GPU of each maker, the first for the others.

    Raises:
        Exception: of Triton's, where something does not compile.
    """
    return [
        (case.name, target, [resources(case, launch, target) for launch in launches_of(case)])
        for case, target in cases(stem)
    ]


def cases(stem: str) -> list[tuple[CompileCase, str]]:
    """The cases of an op, each with the targets that it is compiled for."""
    return [
        (case, target)
        for place, case in enumerate(stems.of(stem).compiled())
        for target in (*EVERY, *(OTHERS if place == 0 else ()))
    ]


def shown_calls(stem: str) -> list[tuple[str, list[Resources]]]:
    """The same of the calls of docs/kernels.md, on the chips that are shown."""
    with torch.device("meta"):
        shown = stems.of(stem).launched()
    found = []
    for call in shown:
        case = CompileCase(call.name, lambda call=call: call.run(_ops()))
        launched = launches_of(case)
        rows = [resources(case, launch, target) for target in SHOWN for launch in launched]
        found.append((call.name, rows))
    return found
