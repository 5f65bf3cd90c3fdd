"""Several programs along each axis, and sizes that no block divides."""

from __future__ import annotations

import pytest
import torch
from op_support.cases import CASES, Inputs, as_tuple, exact
from op_support.tolerance import ULPS, assert_accurate

from fastalign.kernels import dense_plan, dense_similarity, pairwise_distance
from fastalign.ops import reference

KERNELS = {"dense_similarity_loss": dense_similarity, "pairwise_distance_loss": pairwise_distance}

SIMILARITY = ("dense_similarity_loss(p=1,z=0)", "dense_similarity_loss(groups,p=1,z=1)")
DISTANCE = ("pairwise_distance_loss", "pairwise_distance_loss(mask,groups)")

SHAPES = [
    *((name, shape) for name in SIMILARITY for shape in ((33, 5, 3, 7), (3, 130, 9, 11))),
    *((name, shape) for name in DISTANCE for shape in ((33, 3, 5, 9), (3, 40, 5, 13))),
    *((name, (1, 9, 7, 8)) for name in SIMILARITY + DISTANCE),
]


def _compare(name: str, shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    case = next(case for case in CASES if str(case) == name)
    arguments = case.make(Inputs(dtype, "cpu", layout, shape))
    found = as_tuple(getattr(KERNELS[case.op], case.op)(*arguments))
    kernel = reference.kernel(case.op)
    wanted, yardstick = as_tuple(kernel(*exact(arguments))), as_tuple(kernel(*arguments))
    for out, best, same in zip(found, wanted, yardstick, strict=True):
        # The terms of a mean are some hundred times larger than the mean, where signs differ.
        assert_accurate(out, best, same, ulps=64 if out.dim() == 0 else ULPS, name=name)


@pytest.mark.parametrize(("name", "shape"), SHAPES, ids=str)
def test_larger_shapes(name, shape):
    _compare(name, shape, torch.float32, "contiguous")


@pytest.mark.parametrize("name", [*SIMILARITY, *DISTANCE])
def test_larger_shapes_in_16_bits_channels_last(name):
    _compare(name, (4, 70, 5, 7), torch.bfloat16, "channels_last")


@pytest.mark.parametrize("name", SIMILARITY)
def test_programs_that_own_all_images(name, monkeypatch):
    """As on maps large enough: one program walks over all images of its locations."""
    monkeypatch.setattr(dense_plan, "_WARPS", 0)
    _compare(name, (7, 6, 5, 9), torch.float32, "contiguous")


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", SIMILARITY)
def test_vectors_in_blocks(name, layout, monkeypatch):
    monkeypatch.setattr(dense_plan, "LONGEST", 2)
    monkeypatch.setattr(dense_plan, "_BLOCK", 4)
    _compare(name, (6, 7, 3, 7), torch.float32, layout)
