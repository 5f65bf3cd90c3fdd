"""The instruction set is chosen at run time; each that the machine has gives the result."""

from __future__ import annotations

import os
from functools import cache

import pytest
import torch
from copies import with_variable
from op_support.cases import CASES, DTYPES, Inputs, as_tuple, exact, short
from op_support.tolerance import small_term

from fastalign.ops import reference


def test_the_highest_supported_level_is_used(library):
    levels = library.cpu_isa_levels()
    assert levels["baseline"]
    if not os.environ.get("FASTALIGN_CPU_ISA"):
        assert library.cpu_isa() == [name for name, supported in levels.items() if supported][-1]


CHOSEN = """
x = torch.rand(2, 3, 4, 4)
ops.dense_similarity(x, x, backend="cpu")
from fastalign import _C
print(_C.cpu_isa())
"""


@cache
def chosen(*levels: str) -> dict[str, tuple[int, str, str]]:
    """What new processes say to which the environment names these levels, and one of no machine."""
    return with_variable("FASTALIGN_CPU_ISA", (*levels, "mmx"), CHOSEN)


def test_the_environment_chooses(library):
    for name, supported in library.cpu_isa_levels().items():
        status, said, errors = chosen(*library.cpu_isa_levels())[name]
        if supported:
            assert said.strip() == name, errors
        else:
            assert status != 0 and "cannot run" in errors


def test_a_level_that_does_not_exist_is_an_error(library):
    status, _, errors = chosen(*library.cpu_isa_levels())["mmx"]
    assert status != 0
    assert "FASTALIGN_CPU_ISA: unknown instruction set 'mmx'" in errors
    with pytest.raises(ValueError, match="unknown instruction set 'mmx'"):
        library.set_cpu_isa("mmx")


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=short)
def test_every_level_gives_the_result(case, dtype, library, keep_level):
    """On sizes with whole vectors, parts of vectors and several tiles."""
    arguments = case.make(Inputs(dtype, shape=(6, 21, 7, 37)))
    nearest = "nearest" in case.options  # positions are the same at every level, ties included
    wanted = as_tuple(reference.kernel(case.op)(*exact(arguments)))
    found = {}
    for name, supported in library.cpu_isa_levels().items():
        if supported:
            library.set_cpu_isa(name)
            found[name] = as_tuple(getattr(torch.ops.fastalign, case.op)(*arguments, backend="cpu"))
    for name, results in found.items():
        for out, best, base in zip(results, wanted, found["baseline"], strict=True):
            goal = base.double() if nearest else best
            off = (out.double() - goal).abs().max().item() if out.numel() else 0.0
            # Sums of up to a few hundred terms, in any order and with or without fused steps.
            assert off <= small_term(best, out.dtype, ulps=512), name
