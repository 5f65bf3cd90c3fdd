"""What every op promises, for every backend, dtype and layout."""

from __future__ import annotations

import pytest
import torch
from op_support.accuracy import (
    assert_as_accurate_as_plain_pytorch,
    clear_of_edges,
    discontinuity,
)
from op_support.cases import CASES, DTYPES, Inputs, as_tuple, exact, short
from op_support.layouts import LAYOUTS, is_channels_last
from op_support.tolerance import assert_accurate
from torch import Tensor

from fastalign.ops import reference
from fastalign.ops.arguments import Poses
from fastalign.ops.schema import OPS, SCHEMAS

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=short)


def test_the_cases_cover_every_op():
    assert {case.op for case in CASES} == set(SCHEMAS)


@every_case
@every_dtype
def test_as_accurate_as_plain_pytorch(case, dtype, backend, poisoned):
    """In every layout. Also: nothing is left unwritten, since fresh memory holds NaN here."""
    for layout in LAYOUTS:
        assert_as_accurate_as_plain_pytorch(case, Inputs(dtype, backend.device, layout), backend)


@every_case
def test_memory_formats(case, backend):
    """A [B,C,H,W] result is channels_last where the input it belongs to is; others contiguous."""
    of_maps = not isinstance(OPS[case.op].declaration.result, Poses)
    for layout in LAYOUTS:
        arguments = case.make(Inputs(torch.float32, backend.device, layout))
        for out in as_tuple(backend.run(case.op, *arguments)):
            last = of_maps and out.dim() == 4 and layout == "channels_last"
            assert is_channels_last(out) if last else out.is_contiguous(), layout


@every_case
def test_inputs_stay_as_they_are(case, backend):
    arguments = case.make(Inputs(torch.float32, backend.device, "permuted"))
    before = [value.clone() if isinstance(value, Tensor) else value for value in arguments]
    backend.run(case.op, *arguments)
    for was, now in zip(before, arguments, strict=True):
        assert torch.equal(was, now) if isinstance(was, Tensor) else was == now


@every_case
def test_the_same_call_gives_the_same_bits(case, backend):
    """On the CPU always; on a GPU the ops that add with atomics are asked for determinism."""
    arguments = case.make(Inputs(torch.float32, backend.device))
    if case.op == "warp_affine_backward":
        arguments = (*arguments[:-1], True)
    first = as_tuple(backend.run(case.op, *arguments))
    for _ in range(3):
        again = as_tuple(backend.run(case.op, *arguments))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


SMALL_SHAPES = {
    "one pixel": (3, 4, 1, 1),
    "one image": (1, 4, 3, 2),
    "one channel": (3, 1, 3, 2),
    "one row": (2, 3, 1, 5),
    "one column": (2, 3, 5, 1),
    "all ones": (1, 1, 1, 1),
    "no image": (0, 3, 4, 5),
}


@every_case
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_small_shapes(case, layout, backend, poisoned):
    kernel = reference.kernel(case.op)
    for name, shape in SMALL_SHAPES.items():
        arguments = case.make(Inputs(torch.float32, backend.device, layout, shape))
        found = as_tuple(backend.run(case.op, *arguments))
        if not clear_of_edges(case, arguments):
            continue  # a sample lies on a pixel edge, where two gradients are right
        wanted = as_tuple(kernel(*exact(arguments)))
        yardstick = as_tuple(kernel(*arguments))
        for out, best, same in zip(found, wanted, yardstick, strict=True):
            ignore = discontinuity(case, arguments)
            assert_accurate(out, best, same, ignore=ignore, name=name)
            if layout == "contiguous":  # also where a map of one pixel or channel is both
                assert out.stride() == torch.empty(out.shape).stride(), name


EMPTY_SHAPES = {"no row": (2, 3, 0, 5), "no column": (2, 3, 4, 0), "no image": (0, 3, 4, 5)}


@pytest.mark.parametrize(
    "case", [c for c in CASES if not OPS[c.op].declaration.arguments[0].sampled], ids=str
)
def test_empty_maps(case, backend):
    """Shapes as always; a loss of nothing and a gradient summed over nothing are 0."""
    for name, shape in EMPTY_SHAPES.items():
        arguments = case.make(Inputs(torch.float32, backend.device, "contiguous", shape))
        for out in as_tuple(backend.run(case.op, *arguments)):
            assert torch.equal(out, torch.zeros_like(out)), name
