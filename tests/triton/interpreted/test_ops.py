"""The generic test of accuracy in the interpreter: every op, dtype, layout and padding mode.

All combinations would take minutes. Here the cases of an op and padding mode share out the
combinations of dtype and layout, each of which occurs, on maps with few pixels.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from op_support import cases
from op_support.accuracy import assert_as_accurate_as_plain_pytorch
from op_support.backends import Backend
from op_support.cases import CASES, Case, Inputs, short
from op_support.layouts import LAYOUTS

from fastalign.ops.schema import SCHEMAS

PADDINGS = ("zeros", "border", "reflection")
COMBINATIONS = list(itertools.product((torch.float32, torch.float16), LAYOUTS))
# No block divides any of these.
SHAPE, OTHER_SIZE = (3, 5, 3, 5), (4, 3)


def _group(case: Case) -> tuple[str, str]:
    """Cases that share out the combinations among them."""
    return case.op, next((padding for padding in PADDINGS if padding in case.options), "")


def _shared_out() -> list[tuple[Case, torch.dtype, str]]:
    groups: dict[tuple[str, str], list[Case]] = {}
    for case in CASES:
        groups.setdefault(_group(case), []).append(case)
    return [
        (some[turn % len(some)], *COMBINATIONS[turn % len(COMBINATIONS)])
        for some in groups.values()
        for turn in range(max(len(some), len(COMBINATIONS)))
    ]


SHARED_OUT = _shared_out()


def test_every_combination_occurs():
    found = {(*_group(case), dtype, layout) for case, dtype, layout in SHARED_OUT}
    wanted = {(op, "", *both) for op in SCHEMAS for both in COMBINATIONS}
    wanted |= {
        (op, padding, *both)
        for op in SCHEMAS
        if op.startswith("warp_affine")
        for padding in PADDINGS
        for both in COMBINATIONS
    }
    assert found >= wanted and {str(case) for case, *_ in SHARED_OUT} == set(map(str, CASES))


@pytest.mark.parametrize(
    ("case", "dtype", "layout"),
    SHARED_OUT,
    ids=[f"{case}-{short(dtype)}-{layout}" for case, dtype, layout in SHARED_OUT],
)
def test_as_accurate_as_plain_pytorch(case, dtype, layout, monkeypatch):
    monkeypatch.setattr(cases, "OTHER_SIZE", OTHER_SIZE)
    inputs = Inputs(dtype, "cpu", layout, SHAPE)
    assert_as_accurate_as_plain_pytorch(case, inputs, Backend("triton", "cpu"))
