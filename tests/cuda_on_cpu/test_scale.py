"""The kernel that multiplies a stored gradient by a number on the device."""

from __future__ import annotations

import ctypes

import pytest
import torch
from cuda_on_cpu_support.backend import DTYPES
from cuda_on_cpu_support.builder import (
    IN_ORDER,
    RANDOM,
    REVERSE,
    Device,
    Library,
    library,
    op_sources,
)
from cuda_on_cpu_support.memory import guarded
from cuda_on_cpu_support.structs import ARGS, dtype_code


@pytest.fixture(scope="module")
def scale() -> Library:
    if not op_sources("scale"):
        pytest.skip("there is no CUDA kernel of scale")
    built = Library(library(op_sources("scale")))
    assert built.handle.size_scale() == ctypes.sizeof(ARGS["scale"])
    built.handle.launch_scale.restype = ctypes.c_char_p
    return built


@pytest.mark.parametrize("schedule", [IN_ORDER, REVERSE, RANDOM[0]], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products_are_those_of_plain_pytorch(dtype, schedule, scale):
    scale.schedule(schedule)
    scale.device(Device(1, 99 * 1024))
    for count in (1, 7, 8, 1000, 40000):
        for offset in (0, 1):
            for factor in (1.0, -0.3, 0.0, float("nan")):
                values = torch.randn(count + offset).to(dtype)
                placed, block = guarded(values)
                placed.copy_(values)
                number, factor_block = guarded(torch.empty(()))
                number.fill_(factor)
                factor_block.freeze()
                args = ARGS["scale"](block.address, dtype_code(placed), count, number.data_ptr())
                args.data += offset * placed.element_size()
                error = scale.handle.launch_scale(ctypes.byref(args))
                assert error is None, error.decode()
                assert block.is_intact() and factor_block.is_intact()
                wanted = values.clone()
                wanted[offset:] = (wanted[offset:].float() * factor).to(dtype)
                torch.testing.assert_close(placed, wanted, rtol=0, atol=0, equal_nan=True)
