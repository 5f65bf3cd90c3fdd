"""What ptxas and the machine code say of every kernel of a source, on every chip."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any

from cuda_compile.toolchain import (
    ARCHITECTURES,
    SOURCES,
    Kernel,
    is_local,
    is_wide_load,
    is_wide_store,
    kernels_of,
    opcodes,
)

_FLOAT_ATOMIC = re.compile(r"(ATOM|ATOMG|ATOMS|RED)\..*F(16|32|64)")


@dataclass(frozen=True)
class Counts:
    """Instructions of one kernel, by kind."""

    wide_loads: int  # 16 bytes of global memory at once
    wide_stores: int
    local: int  # accesses to local memory
    fused: int  # multiply-adds
    float_atomics: int


@dataclass(frozen=True)
class Code:
    """One kernel on one chip."""

    kernel: Kernel
    counts: Counts


def _counts(code: list[str]) -> Counts:
    return Counts(
        sum(map(is_wide_load, code)),
        sum(map(is_wide_store, code)),
        sum(map(is_local, code)),
        sum(op.startswith("FFMA") for op in code),
        sum(_FLOAT_ATOMIC.match(op) is not None for op in code),
    )


def compiled(source: str, architectures: Iterable[str] = ARCHITECTURES) -> list[Code]:
    """Compile one source of csrc/cuda and read its code.

    Raises:
        ToolError: a tool is missing, or the source does not compile.
    """
    return [
        Code(kernel, _counts(opcodes(kernel)))
        for architecture in architectures
        for kernel in kernels_of(SOURCES / source, architecture)
    ]


def packed(found: Iterable[Code]) -> dict[str, dict[str, Any]]:
    """By symbol: the kernel's name, and by chip its figures in the order of :func:`columns`."""
    rows: dict[str, dict[str, Any]] = {}
    for code in found:
        kernel = code.kernel
        row = rows.setdefault(kernel.symbol, {"name": kernel.name})
        own = (kernel.registers, kernel.stack, kernel.spilled, kernel.shared)
        row[kernel.architecture] = [*own, *astuple(code.counts)]
    return rows


def columns() -> list[str]:
    return ["registers", "stack", "spilled", "shared", *(f.name for f in fields(Counts))]


def unpacked(source: str, rows: Mapping[str, Mapping[str, Any]]) -> list[Code]:
    """What :func:`packed` gave, in the order of chips and names."""
    found = [
        Code(
            Kernel(row["name"], symbol, source, architecture, *row[architecture][:4]),
            Counts(*row[architecture][4:]),
        )
        for symbol, row in rows.items()
        for architecture in ARCHITECTURES
        if architecture in row
    ]
    place = ARCHITECTURES.index
    return sorted(found, key=lambda c: (place(c.kernel.architecture), c.kernel.name))
