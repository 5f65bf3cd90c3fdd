"""Registers, spills, shared memory and instructions of every kernel on every architecture.

All of it as recorded, and one source compiled here and now.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from budget import BUDGETS, RULES
from cuda_compile.machine_code import compiled, packed
from cuda_compile.toolchain import ARCHITECTURES, SOURCES
from records import checks
from records.inputs import included
from records.store import Unavailable, known, made_with

SAMPLE, CHIP = "scale.cu", "sm_90"  # compiles fastest
COPIES = "copy_async.cuh"  # defines what others call


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_has_a_budget_and_every_budget_a_kernel(codes, architecture):
    declared = {
        name
        for path in SOURCES.glob("*.cu*")
        for name in re.findall(r"^FASTALIGN_KERNEL\([^)]*\)\s+(\w+)", path.read_text(), re.M)
    }
    found = {c.kernel.family for c in codes if c.kernel.architecture == architecture}
    assert found == set(BUDGETS) == declared


@pytest.mark.parametrize("rule", RULES)
def test_of_every_kernel_on_every_chip(rule, codes):
    found = [code for code in codes if RULES[rule](code)]
    assert not found, [f"{code.kernel.architecture}, {code.kernel.name}" for code in found]


def test_every_rule_can_be_broken(codes):
    """By a kernel that was changed for the worse."""
    code = next(c for c in codes if c.kernel.name == "scale_in_place<float, 4>")
    fused = next(c for c in codes if BUDGETS[c.kernel.family].fused)
    worse = [
        replace(code, kernel=replace(code.kernel, spilled=8)),
        replace(code, kernel=replace(code.kernel, registers=41)),
        replace(code, kernel=replace(code.kernel, shared=4)),
        replace(code, counts=replace(code.counts, local=1)),
        replace(code, counts=replace(code.counts, wide_loads=0)),
        replace(code, counts=replace(code.counts, wide_stores=0)),
        replace(fused, counts=replace(fused.counts, fused=0)),
        replace(code, counts=replace(code.counts, float_atomics=1)),
    ]
    for (rule, breaks), changed in zip(RULES.items(), worse, strict=True):
        assert breaks(changed), rule
        assert [name for name, other in RULES.items() if other(changed)] == [rule]


@pytest.mark.parametrize("source", sorted(path.name for path in SOURCES.glob("*.cu")))
def test_copies_that_are_waited_for_were_committed(source):
    """A wait is for committed groups only. The simulator copies at once, and misses it."""
    texts = [path.read_text() for path in included([SOURCES / source]) if path.name != COPIES]
    if any("wait_for_copies<" in text for text in texts):
        assert any(re.search(r"commit_copies\(\);|cp\.async\.commit_group", t) for t in texts)


@pytest.mark.slow
def test_a_compilation_gives_what_is_recorded():
    """Its figures with the same compiler, and with another one what they must keep to."""
    try:
        tools = checks.MACHINE_CODE.made_with()
    except Unavailable as reason:
        pytest.skip(str(reason))
    found = compiled(SAMPLE, [CHIP])
    recorded = known(checks.MACHINE_CODE)[SAMPLE]
    assert {code.kernel.symbol for code in found} == set(recorded)
    assert not [code for code in found for breaks in RULES.values() if breaks(code)]
    if made_with(checks.MACHINE_CODE)[SAMPLE] == tools:
        rows = packed(found)
        assert {symbol: row[CHIP] for symbol, row in rows.items()} == {
            symbol: row[CHIP] for symbol, row in recorded.items()
        }
