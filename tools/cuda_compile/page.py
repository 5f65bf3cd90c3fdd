"""docs/kernels.md: what every kernel takes, computed and not typed but for its beginning."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from records import checks
from records.store import Check, known, made_with

from cuda_compile.chips import CHIPS, Chip, occupancy
from cuda_compile.machine_code import Code, unpacked
from cuda_compile.toolchain import ARCHITECTURES, REPOSITORY

PAGE = REPOSITORY / "docs" / "kernels.md"

# Where to change what, and the way to force a plan: the one part that is typed.
HEAD = Path(__file__).with_name("page_head.md")

_CALLS = """
## Calls

Per chip: blocks x threads of each launch, the shared memory of a block, the blocks that fit a
multiprocessor with the share of its warps they fill and what limits them, and how many times over
the grid fills the chip.
"""

_KERNELS = """
## Kernels

All instantiations of a kernel together. "16 bytes" are those whose machine code loads (stores)
16 bytes of global memory at once, the others being for tensors whose alignment or layout does not
allow it.
"""

_PROOFS = """
## Proofs

What sentryward {version} proves on the PTX for sm_100a, for one small launch of each kernel in
float32: that all threads of a block meet at its barriers, and that no two accesses to shared or
global memory race. "Every path" holds for whatever the tensors hold. Where branches depend on
that, "one path" holds for one side of each. "Open" is not decided, for the reason given; the
schedules of `tests/cuda_on_cpu` are then what there is.
"""

_TRITON = """
## Triton

The same calls by the Triton twins, compiled ahead of time by Triton {version} for a large and a
small chip, with the grid for the usual number of multiprocessors. Spilled bytes and loads of 16
bytes as the machine code has them.
"""


def _release(check: Check, tool: str) -> str:
    """The release of a tool behind a record, or all of them where units differ."""
    return ", ".join(sorted({tools[tool] for tools in made_with(check).values()}))


@cache
def _codes() -> tuple[Code, ...]:
    return tuple(
        code
        for source, rows in known(checks.MACHINE_CODE).items()
        for code in unpacked(source, rows)
    )


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(head)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _row(chip: Chip, launched: Iterable[list[Any]]) -> Iterable[list[str]]:
    registers = {
        code.kernel.name: code.kernel.registers
        for code in _codes()
        if code.kernel.architecture == chip.architecture
    }
    for name, blocks, threads, shared in launched:
        found = occupancy(chip, threads, registers[name], shared)
        waves = blocks / (found.blocks * chip.multiprocessors)
        yield [
            chip.name,
            f"`{name}`",
            f"{blocks} x {threads}",
            f"{registers[name]}",
            f"{shared}",
            f"{found.blocks}, {found.share:.0%}",
            found.limit,
            f"{waves:.2f}",
        ]


def _calls() -> Iterable[str]:
    head = ("chip", "kernel", "grid", "registers", "shared", "occupancy", "limit", "waves")
    for call in (call for some in known(checks.LAUNCHES).values() for call in some):
        floors = ", ".join(
            f"{chip.name} {call['must_move'] / chip.bandwidth / 1e6:.1f} us" for chip in CHIPS
        )
        yield f"\n### {call['call']}\n"
        yield f"Must move {_size(call['must_move'])}; at least {floors}.\n"
        rows = (row for chip in CHIPS for row in _row(chip, call["launches"][chip.name]))
        yield from _table(head, rows)


def _span(values: Iterable[int]) -> str:
    values = sorted(values)
    return f"{values[0]}" if values[0] == values[-1] else f"{values[0]}-{values[-1]}"


def _families() -> dict[str, list[Code]]:
    found: dict[str, list[Code]] = {}
    for code in _codes():
        found.setdefault(code.kernel.family, []).append(code)
    return dict(sorted(found.items()))


def _kernels() -> Iterable[str]:
    rows = []
    for family, all_of in _families().items():
        here = {
            architecture: [c for c in all_of if c.kernel.architecture == architecture]
            for architecture in ARCHITECTURES
        }
        shown = here["sm_90"]
        loads = sum(code.counts.wide_loads > 0 for code in shown)
        stores = sum(code.counts.wide_stores > 0 for code in shown)
        rows.append(
            [
                f"`{family}`",
                f"`{shown[0].kernel.source}`",
                f"{len(shown)}",
                *(_span(code.kernel.registers for code in some) for some in here.values()),
                f"{max(code.kernel.spilled for code in all_of)}",
                f"{loads} ({stores})",
            ]
        )
    head = ("kernel", "source", "instantiations", *ARCHITECTURES, "spilled bytes", "16 bytes")
    yield ""
    yield from _table(head, rows)


def _proofs() -> Iterable[str]:
    kernels: dict[str, list[str]] = {}
    for some in known(checks.PROOFS).values():
        for proved in some["kernels"]:
            row = [
                f"`{proved['kernel']}`",
                proved["call"],
                f"{proved['grid'][0]} x {proved['grid'][1]}",
                *(proved[key] for key in ("barriers", "races", "reason")),
            ]
            kernels.setdefault(proved["kernel"], row)
    yield ""
    head = ("kernel", "call", "grid", "barriers", "races", "why open")
    yield from _table(head, (kernels[name] for name in sorted(kernels)))


def _triton() -> Iterable[str]:
    head = ("chip", "kernel", "grid", "registers", "shared", "occupancy", "limit")
    chips = {chip.architecture: chip for chip in CHIPS}
    for call in (call for some in known(checks.TRITON).values() for call in some["shown"]):
        rows = []
        for kernel, target, warps, registers, spilled, shared, wide, programs in call["launches"]:
            room = occupancy(chips[target], warps * 32, registers, shared)
            rows.append(
                [
                    chips[target].name,
                    f"`{kernel}`",
                    f"{programs} x {warps * 32}",
                    f"{registers}",
                    f"{shared}",
                    f"{room.blocks}, {room.share:.0%}",
                    room.limit,
                    f"{spilled}",
                    f"{wide}",
                ]
            )
        yield f"\n### {call['call']}, Triton\n"
        yield from _table((*head, "spilled", "wide"), rows)


def page() -> str:
    """The text of docs/kernels.md.

    Raises:
        StaleRecord: a record is not of the present sources.
    """
    lines = [
        HEAD.read_text(encoding="utf-8").replace(
            "{version}", _release(checks.MACHINE_CODE, "nvcc")
        ),
        _CALLS.strip("\n"),
        *_calls(),
        _KERNELS.rstrip("\n"),
        *_kernels(),
        _PROOFS.rstrip("\n").format(version=_release(checks.PROOFS, "sentryward")),
        *_proofs(),
        _TRITON.rstrip("\n").format(version=_release(checks.TRITON, "triton")),
        *_triton(),
    ]
    return "\n".join(lines) + "\n"
