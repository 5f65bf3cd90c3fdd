"""docs/kernels.md: what every kernel takes, computed and not typed but for its beginning."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from cuda_compile.chips import CHIPS, Chip, occupancy
from cuda_compile.launches import Call, calls, launches
from cuda_compile.proofs import prover, verdicts
from cuda_compile.toolchain import (
    ARCHITECTURES,
    REPOSITORY,
    Kernel,
    compiler_version,
    is_wide_load,
    is_wide_store,
    kernels,
    opcodes,
)
from cuda_compile.triton_launches import rows as triton_rows
from cuda_compile.triton_launches import triton_version

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


def _recorded(pattern: str) -> str | None:
    found = re.search(pattern, PAGE.read_text()) if PAGE.exists() else None
    return found[1] if found else None


def recorded_version() -> str | None:
    """The nvcc that the committed page was written with."""
    return _recorded(r"with nvcc ([\d.]+):")


def recorded_prover() -> str | None:
    """The release of sentryward behind the committed page."""
    return _recorded(r"What sentryward ([\d.]+) proves")


def recorded_triton() -> str | None:
    """The Triton of the committed page."""
    return _recorded(r"by Triton ([\w.+]+) for")


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(head)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _row(chip: Chip, call: Call) -> Iterable[list[str]]:
    known = {kernel.name: kernel for kernel in kernels(chip.architecture)}
    for launch in launches(call, chip):
        kernel = known[launch.kernel]
        found = occupancy(chip, launch.threads, kernel.registers, launch.shared)
        waves = launch.blocks / (found.blocks * chip.multiprocessors)
        yield [
            chip.name,
            f"`{launch.kernel}`",
            f"{launch.blocks} x {launch.threads}",
            f"{kernel.registers}",
            f"{launch.shared}",
            f"{found.blocks}, {found.share:.0%}",
            found.limit,
            f"{waves:.2f}",
        ]


def _calls() -> Iterable[str]:
    head = ("chip", "kernel", "grid", "registers", "shared", "occupancy", "limit", "waves")
    for call in calls():
        floors = ", ".join(
            f"{chip.name} {call.must_move / chip.bandwidth / 1e6:.1f} us" for chip in CHIPS
        )
        yield f"\n### {call.name}\n"
        yield f"Must move {_size(call.must_move)}; at least {floors}.\n"
        yield from _table(head, (row for chip in CHIPS for row in _row(chip, call)))


def _span(values: Iterable[int]) -> str:
    values = sorted(values)
    return f"{values[0]}" if values[0] == values[-1] else f"{values[0]}-{values[-1]}"


def _families() -> dict[str, list[Kernel]]:
    found: dict[str, list[Kernel]] = {}
    for architecture in ARCHITECTURES:
        for kernel in kernels(architecture):
            found.setdefault(kernel.family, []).append(kernel)
    return dict(sorted(found.items()))


def _kernels() -> Iterable[str]:
    rows = []
    for family, all_of in _families().items():
        here = {
            architecture: [kernel for kernel in all_of if kernel.architecture == architecture]
            for architecture in ARCHITECTURES
        }
        codes = [opcodes(kernel) for kernel in here["sm_90"]]
        loads = sum(any(map(is_wide_load, code)) for code in codes)
        stores = sum(any(map(is_wide_store, code)) for code in codes)
        rows.append(
            [
                f"`{family}`",
                f"`{here['sm_90'][0].source}`",
                f"{len(codes)}",
                *(_span(kernel.registers for kernel in some) for some in here.values()),
                f"{max(kernel.spilled for kernel in all_of)}",
                f"{loads} ({stores})",
            ]
        )
    head = ("kernel", "source", "instantiations", *ARCHITECTURES, "spilled bytes", "16 bytes")
    yield ""
    yield from _table(head, rows)


def cuda_part() -> str:
    """The page up to the Triton kernels.

    Raises:
        ToolError: nvcc or cuobjdump is missing, or a source does not compile.
    """
    head = HEAD.read_text().replace("{version}", compiler_version())
    lines = [head, _CALLS.strip("\n"), *_calls()]
    lines += [_KERNELS.rstrip("\n"), *_kernels()]
    return "\n".join(lines) + "\n"


def proofs_part() -> str:
    """What is proved of the kernels; needs nvcc and sentryward."""
    rows = [
        [
            f"`{question.kernel.name}`",
            question.call,
            f"{question.launch.blocks} x {question.launch.threads}",
            verdict.barriers,
            verdict.races,
            verdict.reason,
        ]
        for question, verdict in verdicts()
    ]
    head = ("kernel", "call", "grid", "barriers", "races", "why open")
    lines = [_PROOFS.rstrip("\n").format(version=prover()), "", *_table(head, rows)]
    return "\n".join(lines) + "\n"


def triton_part() -> str:
    """The rest of the page; needs Triton."""
    lines = [_TRITON.rstrip("\n").format(version=triton_version())]
    head = (
        "chip",
        "kernel",
        "grid",
        "registers",
        "shared",
        "occupancy",
        "limit",
        "spilled",
        "wide",
    )
    for name, rows in triton_rows():
        lines += [f"\n### {name}, Triton\n", *_table(head, rows)]
    return "\n".join(lines) + "\n"


def committed() -> tuple[str, str, str]:
    """What the committed page says of CUDA, of proofs, and of Triton."""
    known = PAGE.read_text() if PAGE.exists() else ""
    rest, mark, triton = known.partition("\n## Triton")
    cuda, middle, proofs = rest.partition("\n## Proofs")
    return cuda, middle + proofs, mark + triton


def page() -> str:
    """The text of docs/kernels.md; without sentryward or Triton, the committed page keeps what it
    says of them."""
    _, proofs, triton = committed()
    return (
        cuda_part()
        + (proofs_part() if prover() is not None else proofs)
        + (triton_part() if triton_version() is not None else triton)
    )
