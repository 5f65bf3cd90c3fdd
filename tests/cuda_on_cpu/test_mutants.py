"""Every mutant of the kernels is caught; the kernels themselves pass the same checks.

All of it as recorded, and one mutant of each op here and now.
"""

from __future__ import annotations

import re

import pytest
from cuda_on_cpu_support.builder import CSRC, OPS
from cuda_on_cpu_support.mutant_list import BARRIER, BARRIERS, MUTANTS
from cuda_on_cpu_support.mutants import UNCHANGED, caught
from records import checks
from records.store import known, made_with

KERNELS = sorted((CSRC / "cuda").glob("*.cuh"))
# Of each op one that is caught early; all of them: make records.
SAMPLES = [next(mutant for mutant in MUTANTS if mutant.op == op) for op in OPS]


@pytest.mark.parametrize("op", OPS)
def test_every_mutant_is_caught_and_nothing_else(op):
    found = dict(known(checks.MUTANTS)[op])
    assert found.pop(UNCHANGED) is None
    assert set(found) == {mutant.words for mutant in MUTANTS if mutant.op == op}
    assert not [words for words, where in found.items() if where is None]


@pytest.mark.parametrize("mutant", SAMPLES, ids=str)
def test_a_mutant_is_caught_as_recorded(mutant, built):
    """At the same place with the same compiler."""
    where = caught(mutant.op, mutant.build())
    assert where is not None
    if made_with(checks.MUTANTS)[mutant.op] == checks.MUTANTS.made_with():
        assert where == known(checks.MUTANTS)[mutant.op][mutant.words]


def test_every_barrier_has_a_mutant():
    found = {path.name: len(re.findall(BARRIER, path.read_text())) for path in KERNELS}
    assert {name: count for name, count in found.items() if count} == {
        name: count for name, (_, count) in BARRIERS.items()
    }


def test_every_op_has_mutants_of_every_kind():
    for op in OPS:
        # The threads of anomaly_map exchange nothing but by shared memory.
        lanes = set() if op == "anomaly_map" else {"wrong lane"}
        kinds = {"removed barrier", "misaligned", *lanes}
        found = " ".join(mutant.kind for mutant in MUTANTS if mutant.op == op)
        assert all(kind in found for kind in kinds) and ("off by one" in found or "bound" in found)
