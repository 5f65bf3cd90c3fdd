"""Kept constants, and what is traced: neither gets into the other."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from fastalign.export import plain_ops
from fastalign.nn import SpatialAlign
from fastalign.nn.constants import constant


@pytest.fixture
def ramp():
    """A constant, and the sizes for which it was made."""
    made = []

    @constant
    def make(size: int) -> Tensor:
        made.append(size)
        return torch.arange(size)

    return make, made


def test_it_is_made_once(ramp):
    make, made = ramp
    with torch.inference_mode():
        first = make(3)
    assert make(3) is first and not first.is_inference() and made == [3]
    assert torch.equal(make(4), torch.arange(4)) and made == [3, 4]


@pytest.mark.parametrize("kept", [False, True])
def test_fake_tensors_stay_in_their_mode(ramp, kept):
    make, _ = ramp
    if kept:
        make(3)
    with FakeTensorMode():
        assert type(make(3)) is FakeTensor
    assert type(make(3)) is Tensor


def test_a_compiled_graph_makes_its_own(ramp):
    make, made = ramp
    doubled = torch.compile(lambda x: x * make(3), backend="eager", fullgraph=True)
    assert torch.equal(doubled(torch.full((3,), 2)), torch.tensor([0, 2, 4]))
    make(3)
    assert made[-1:] == [3] and type(make(3)) is Tensor


def test_an_exported_graph_holds_what_was_kept(ramp):
    make, made = ramp
    make(3)

    class Doubled(torch.nn.Module):
        def forward(self, x):
            return x * make(3)

    with plain_ops():
        program = torch.export.export(Doubled(), (torch.ones(3, dtype=torch.int64),))
    assert "aten.arange.default" not in {str(node.target) for node in program.graph.nodes}
    assert program.module()(torch.full((3,), 2)).tolist() == [0, 2, 4] and made == [3]


def test_only_so_many_are_kept(ramp):
    make, made = ramp
    for _ in range(2):
        for size in range(70):
            make(size)
    assert len(made) == 140
    make(69)
    assert len(made) == 140


def test_a_layer_can_be_exported_twice_and_used_in_between():
    align, x = SpatialAlign(3), torch.rand(2, 3, 50, 62)
    for _ in range(2):
        with plain_ops():
            torch.export.export(align, (x,))
        assert type(align(x).aligned) is Tensor


def test_what_a_transform_of_torch_func_has_made_is_not_kept(ramp):
    make, made = ramp
    torch.func.grad(lambda x: (x * make(3)).sum())(torch.ones(3))
    assert type(make(3)) is Tensor and make(3).untyped_storage().data_ptr() and made == [3, 3]
