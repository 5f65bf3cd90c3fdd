"""The Triton twins in the same calls: compiled ahead of time, as tests/triton does."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from functools import cache
from types import SimpleNamespace

import torch

from cuda_compile.chips import CHIPS, Chip, occupancy
from cuda_compile.launches import calls
from cuda_compile.toolchain import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests" / "triton"))

# Compiling takes seconds for each kernel and chip: one large chip and one small.
SHOWN = tuple(chip for chip in CHIPS if chip.architecture in ("sm_90", "sm_120"))


@cache
def triton_version() -> str | None:
    """The installed Triton, or None."""
    if importlib.util.find_spec("triton") is None:
        return None
    import triton

    return triton.__version__


@cache
def _ops() -> SimpleNamespace:
    """Every op by name."""
    from fastalign.ops import triton_kernels
    from fastalign.ops.schema import SCHEMAS

    return SimpleNamespace(**{op: triton_kernels.kernel(op) for op in SCHEMAS})


def _row(chip: Chip, found: object) -> list[str]:
    room = occupancy(chip, found.warps * 32, found.registers, found.shared)
    return [
        chip.name,
        f"`{found.kernel}`",
        f"{found.programs} x {found.warps * 32}",
        f"{found.registers}",
        f"{found.shared}",
        f"{room.blocks}, {room.share:.0%}",
        room.limit,
        f"{found.spilled}",
        f"{found.wide_loads}",
    ]


def rows() -> Iterable[tuple[str, list[list[str]]]]:
    """For each call its name and a row per chip and launch: chip, kernel, grid, registers, shared
    memory, occupancy, what limits it, bytes spilled and 16-byte loads."""
    from compiling import CompileCase, launches_of, resources

    with torch.device("meta"):
        shown = calls()
    for call in shown:
        case = CompileCase(call.name, lambda call=call: call.run(_ops()))
        launched = launches_of(case)
        yield (
            call.name,
            [
                _row(chip, resources(case, launch, chip.architecture))
                for chip in SHOWN
                for launch in launched
            ],
        )
