"""Parts of the reference that the other tests do not reach on every machine, and what it holds."""

from __future__ import annotations

import importlib

import pytest
import torch
from op_support.cases import CASES, Inputs, as_tuple
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastalign.ops import reference
from fastalign.ops.reference import groups as grouping
from fastalign.ops.reference.sampling import sample_backward
from fastalign.ops.reference.vectors import directions
from fastalign.ops.reference.warp_affine import _MODES, _PADDING_MODES


@pytest.mark.parametrize("mode", _MODES)
@pytest.mark.parametrize("padding", _PADDING_MODES)
@pytest.mark.parametrize("corners", [False, True])
def test_the_deterministic_gradient_is_that_of_torch(mode, padding, corners):
    """GPUs take it under torch.use_deterministic_algorithms; here it runs on the CPU."""
    inputs = Inputs(torch.float64, shape=(3, 2, 5, 7))
    x, grad = inputs.features(), inputs.other_size(6, 4)
    grid = torch.nn.functional.affine_grid(inputs.theta(size=0.6), [3, 2, 6, 4], corners)
    found = sample_backward(grad, x, grid, mode, padding, corners, True, True)
    wanted = torch.ops.aten.grid_sampler_2d_backward(
        grad, x, grid, _MODES[mode], _PADDING_MODES[padding], corners, [True, True]
    )
    torch.testing.assert_close(found[0], wanted[0])
    torch.testing.assert_close(found[1], wanted[1])


@pytest.mark.parametrize("padding", _PADDING_MODES)
@pytest.mark.parametrize("corners", [False, True])
def test_the_deterministic_gradient_of_one_pixel(padding, corners):
    x, grad = torch.randn(1, 2, 1, 1).double(), torch.randn(1, 2, 3, 3).double()
    grid = (torch.rand(1, 3, 3, 2).double() - 0.5) * 3
    found = sample_backward(grad, x, grid, "bilinear", padding, corners, True, True)
    wanted = torch.ops.aten.grid_sampler_2d_backward(
        grad, x, grid, 0, _PADDING_MODES[padding], corners, [True, True]
    )
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_deterministic_gradient_reads_nothing_outside():
    x, grad = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 3, 3)
    for value in (float("nan"), float("inf"), -1e30, 1e30):
        for mode in _MODES:
            for padding in _PADDING_MODES:
                grid = torch.full((1, 3, 3, 2), value)
                sample_backward(grad, x, grid, mode, padding, False, True, True)


def test_both_ways_to_number_groups_sum_alike():
    """Counting labels would make a GPU wait; there the first image of a label stands for it."""
    labels = torch.tensor([4, -2, 4, 9, 9, -2])
    values = torch.randn(6, 3)
    by_rank, by_first = grouping.slots(labels), grouping.slots_by_first_image(labels)
    assert by_rank.number == 3 and by_first.number == 6
    for where in (by_rank, by_first):
        sums = grouping.for_each_image(grouping.sum_by_slot(values, where), where)
        for image, label in enumerate(labels):
            torch.testing.assert_close(sums[image], values[labels == label].sum(0))


class _Largest(TorchDispatchMode):
    """The most elements that any tensor made inside has, views of stride 0 not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple) else (result,):
            if isinstance(value, Tensor) and 0 not in value.stride():
                self.elements = max(self.elements, value.numel())
        return result


@pytest.mark.parametrize("case", [c for c in CASES if c.op.startswith(("dense", "pair"))], ids=str)
def test_pairs_are_never_held_all_at_once(case):
    """No tensor is larger than the batch: [B,B,H,W] would be."""
    shape = (40, 6, 4, 4)  # B above C, so that B*B*H*W is larger than the batch
    arguments = case.make(Inputs(torch.float32, shape=shape))
    largest = max(value.numel() for value in arguments if isinstance(value, Tensor))
    with _Largest() as seen:
        reference.kernel(case.op)(*arguments)
    assert 0 < seen.elements <= largest


@pytest.mark.parametrize("case", [c for c in CASES if c.op.startswith("maha")], ids=str)
@pytest.mark.parametrize("locations", [1, 7])
def test_mahalanobis_in_pieces(case, locations, monkeypatch):
    """Factors are unpacked for some locations at a time; how many must not matter."""
    arguments = case.make(Inputs(torch.float64))
    whole = as_tuple(reference.kernel(case.op)(*arguments))
    module = importlib.import_module("fastalign.ops.reference.mahalanobis")
    channels = 7
    monkeypatch.setattr(module, "_ENTRIES", locations * channels * channels)
    for piecewise, at_once in zip(
        as_tuple(reference.kernel(case.op)(*arguments)), whole, strict=True
    ):
        torch.testing.assert_close(piecewise, at_once)


def test_similarity_is_split_where_processes_can_exchange_sums():
    """Two halves of a batch, with sums added in between, give what the whole batch gives."""
    parts = importlib.import_module("fastalign.ops.reference.dense_similarity")
    p, z = torch.randn(2, 6, 4, 3, 5, dtype=torch.float64)
    whole = reference.kernel("dense_similarity")(p, z, None)
    everyone = grouping.slots(None)
    halves = [(directions(p[s]), directions(z[s])) for s in (slice(0, 2), slice(2, 6))]
    sums = [parts.accumulate(of_z.unit, everyone) for _, of_z in halves]
    exchanged = parts.Sums(*(sum(values) for values in zip(*sums, strict=True)))
    found = [parts.similarity(*half, exchanged, everyone) for half in halves]
    torch.testing.assert_close(torch.cat(found), whole)
