"""Registers, spills, shared memory and instructions of every kernel on every architecture."""

from __future__ import annotations

import re

import pytest
from budget import BUDGETS
from cuda_compile.toolchain import (
    ARCHITECTURES,
    SOURCES,
    Kernel,
    disassembler,
    is_local,
    is_wide_load,
    is_wide_store,
    opcodes,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("architecture", ARCHITECTURES),
]


@pytest.fixture
def found(architecture: str, compiled) -> tuple[Kernel, ...]:
    return compiled(architecture)


@pytest.fixture
def code(found):
    if disassembler() is None:
        pytest.skip("no cuobjdump: not in the toolkit, nor as nvidia-cuda-cuobjdump or triton")
    return {kernel: opcodes(kernel) for kernel in found}


def test_every_kernel_has_a_budget_and_every_budget_a_kernel(found, architecture):
    declared = {
        name
        for path in SOURCES.glob("*.cu*")
        for name in re.findall(r"^FASTALIGN_KERNEL\([^)]*\)\s+(\w+)", path.read_text(), re.M)
    }
    assert {kernel.family for kernel in found} == set(BUDGETS) == declared


def test_nothing_is_spilled(found, architecture):
    assert not [f"{k.name}: {k.spilled} bytes" for k in found if k.spilled]


def test_registers_and_shared_memory_stay_in_the_budget(found, architecture):
    assert not [
        f"{kernel.name}: {kernel.registers} registers, {kernel.shared} bytes of static shared"
        for kernel in found
        if kernel.registers > BUDGETS[kernel.family].registers or kernel.shared > 0
    ]


def test_no_kernel_touches_local_memory(code, architecture):
    """Neither spilled registers nor arrays that are indexed at run time."""
    assert not [k.name for k, text in code.items() if k.stack or any(map(is_local, text))]


@pytest.mark.parametrize(
    ("which", "is_wide"), [("wide_loads", is_wide_load), ("wide_stores", is_wide_store)]
)
def test_16_bytes_cross_memory_at_once_where_the_kernel_claims_it(
    code, architecture, which, is_wide
):
    claimed = [
        (kernel, text)
        for kernel, text in code.items()
        if (pattern := getattr(BUDGETS[kernel.family], which)) and re.search(pattern, kernel.name)
    ]
    assert claimed
    assert not [kernel.name for kernel, text in claimed if not any(map(is_wide, text))]


def test_products_and_sums_are_fused(code, architecture):
    assert not [
        kernel.name
        for kernel, text in code.items()
        if BUDGETS[kernel.family].fused and not any(op.startswith("FFMA") for op in text)
    ]


def test_no_float_is_added_atomically(code, architecture):
    """Sums whose order depends on time would differ from run to run."""
    assert not [
        kernel.name
        for kernel, text in code.items()
        if any(re.match(r"(ATOM|ATOMG|ATOMS|RED)\..*F(16|32|64)", op) for op in text)
    ]
