"""Scaling a stored gradient in place: every length, storage and alignment, and a factor of 1."""

from __future__ import annotations

import ctypes

import pytest
import torch
from cuda_on_cpu_support.builder import SCHEDULES, Library, library, op_sources
from cuda_on_cpu_support.memory import guarded
from cuda_on_cpu_support.structs import ScaleArgs, dtype_code


@pytest.fixture(scope="module")
def scale() -> Library:
    found = Library(library(op_sources("scale")))
    assert found.handle.size_scale() == ctypes.sizeof(ScaleArgs)
    found.handle.launch_scale.restype = ctypes.c_char_p
    return found


def run(scale: Library, x: torch.Tensor, factor: float) -> None:
    number, block = guarded(torch.tensor([factor]))
    number.fill_(factor)
    block.freeze()
    args = ScaleArgs(x.data_ptr(), dtype_code(x), x.numel(), number.data_ptr())
    assert scale.handle.launch_scale(ctypes.byref(args)) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 3, 8, 1025, 50_007])
@pytest.mark.parametrize("offset", [0, 1])
def test_it_is_a_product(scale, dtype, count, offset):
    for schedule in SCHEDULES[:3]:
        scale.schedule(schedule)
        values = torch.randn(count + offset).to(dtype)
        placed, _ = guarded(values)
        placed.copy_(values)
        run(scale, placed[offset:], -2.5)
        assert torch.equal(placed[offset:], values[offset:] * torch.tensor(-2.5))
        assert torch.equal(placed[:offset], values[:offset])


def test_a_factor_of_one_touches_nothing(scale):
    values = torch.randn(5000)
    placed, block = guarded(values)
    placed.copy_(values)
    block.freeze()
    run(scale, placed, 1.0)
    assert torch.equal(placed, values)
