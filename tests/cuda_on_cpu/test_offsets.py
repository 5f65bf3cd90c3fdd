"""Tensors that begin beside a boundary of vectors, as views of larger ones do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cuda_on_cpu_support.backend import BACKEND, DTYPES
from cuda_on_cpu_support.builder import OPS
from cuda_on_cpu_support.checks import ALL_CASES, check_case
from op_support.cases import Inputs

SHAPE = (3, 16, 6, 8)  # whole vectors in either layout, so that only the start keeps them away
LAYOUTS = ("contiguous", "channels_last")


def _beside(value: object) -> object:
    """A tensor's values one element behind a boundary, with its strides; what is none, as it is."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.numel() == 0:
        return value
    reach = 1 + sum((n - 1) * s for n, s in zip(value.shape, value.stride(), strict=True))
    room = value.new_empty(reach + 1)
    moved = room.as_strided(value.shape, value.stride(), 1)
    assert moved.data_ptr() % 16 == value.element_size()
    return moved.copy_(value)


@pytest.mark.parametrize("op", OPS)
def test_tensors_that_begin_beside_a_boundary(op, kernels, monkeypatch):
    """The guards around memory would move them to a boundary; the harness sees what is misaligned
    without them."""
    monkeypatch.setattr(kernels, "watched", True)
    for turn, case in enumerate(case for case in ALL_CASES if case.op.startswith(op)):
        moved = replace(case, make=lambda i, make=case.make: tuple(map(_beside, make(i))))
        check_case(moved, BACKEND, Inputs(DTYPES[turn % 3], "cpu", LAYOUTS[turn // 3 % 2], SHAPE))
