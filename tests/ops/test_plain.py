"""The ops written out in torch's own: the same values and gradients, and nothing of ours left."""

from __future__ import annotations

import pytest
import torch
from op_support.cases import DTYPES, Inputs
from op_support.functions import FUNCTIONS, ONE_OF_EACH, require_gradients
from op_support.tolerance import assert_accurate
from torch import Tensor, nn

from fastalign import ops
from fastalign.export import plain_ops
from fastalign.ops import plain


def _results(function, tensors, wanted):
    out = function(*tensors, backend="reference")
    return out.detach(), *torch.autograd.grad(out, wanted, torch.ones_like(out))


def _doubled(tensor: Tensor | None) -> Tensor | None:
    if tensor is None or not tensor.is_floating_point():
        return tensor
    return tensor.detach().double()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_values_and_gradients_are_those_of_the_op(function, dtype):
    tensors = function.make(Inputs(dtype))
    wanted = require_gradients(function, tensors)
    same = _results(function, tensors, wanted)
    with plain_ops():
        found = _results(function, tensors, wanted)
    exact_tensors = tuple(_doubled(tensor) for tensor in tensors)
    exact = _results(function, exact_tensors, require_gradients(function, exact_tensors))
    for number, (out, true, plain_torch) in enumerate(zip(found, exact, same, strict=True)):
        assert out.dtype == plain_torch.dtype and out.shape == plain_torch.shape
        assert_accurate(out, true, plain_torch, ulps=16, name=f"result {number}")


class _Call(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor | None) -> Tensor:
        return self.function(*tensors)


def _ours(program: torch.export.ExportedProgram) -> list[str]:
    return [str(n.target) for n in program.graph.nodes if str(n.target).startswith("fastalign")]


@pytest.mark.parametrize("function", ONE_OF_EACH, ids=str)
def test_an_exported_graph_holds_torch_ops_alone_for_every_batch(function):
    tensors = function.make(Inputs())
    batch = torch.export.Dim("batch", min=2)
    batched = {"mahalanobis": 1}.get(function.name, len(tensors))
    shapes = tuple({0: batch} if n < batched else None for n in range(len(tensors)))
    with plain_ops():
        program = torch.export.export(_Call(function), tensors, dynamic_shapes=(shapes,))
    assert _ours(program) == []
    others = function.make(Inputs(shape=(5, 7, 5, 9), seed=1))
    if function.name == "mahalanobis":
        others = (others[0], *tensors[1:])
    others = tuple(t[:5] if n < batched and t is not None else t for n, t in enumerate(others))
    torch.testing.assert_close(program.module()(*others), function(*others))


def test_outside_the_op_is_recorded():
    function = next(f for f in ONE_OF_EACH if f.name == "mahalanobis")
    program = torch.export.export(_Call(function), function.make(Inputs()))
    assert _ours(program) == ["fastalign.mahalanobis.default"]


def test_a_script_trace_holds_torch_ops_alone():
    function = next(f for f in ONE_OF_EACH if f.name == "warp_affine")
    tensors = function.make(Inputs())
    with plain_ops():
        traced = torch.jit.trace(_Call(function), tensors)
    assert "fastalign::" not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(*tensors), function(*tensors))


def test_compiled_code_follows_the_context():
    x, theta = torch.rand(2, 3, 4, 5), ops.affine.identity(2)
    seen = []

    def backend(graph, inputs):
        seen.append(any("fastalign" in str(node.target) for node in graph.graph.nodes))
        return graph

    compiled = torch.compile(ops.warp_affine, backend=backend, fullgraph=True)
    compiled(x, theta)
    with plain_ops():
        compiled(x, theta)
    compiled(x, theta)
    assert seen == [True, False]


def test_arguments_are_checked_as_ever():
    with plain_ops(), pytest.raises(ValueError, match=r"theta has shape \[2, 3\]"):
        ops.warp_affine(torch.rand(2, 3, 4, 5), torch.eye(2, 3))


def test_contexts_may_be_nested_and_end_with_an_error():
    with pytest.raises(ZeroDivisionError), plain_ops():
        with plain_ops():
            pass
        assert plain.active()
        raise ZeroDivisionError
    assert not plain.active()


def test_autocast_leaves_theta_alone():
    x, theta = torch.rand(1, 1, 8, 900), ops.affine.identity(1)
    theta[0, 0, 2] = 1 / 900
    with plain_ops(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = ops.warp_affine(x, theta)
    # Coordinates in float32 are off by so many pixels; in bfloat16 it would be 65536 times as many.
    bound = 900 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(found, ops.warp_affine(x, theta), rtol=0, atol=bound)


def test_a_gradient_can_be_differentiated_again():
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    with plain_ops():
        assert torch.autograd.gradgradcheck(lambda v: ops.dense_similarity_loss(v, v.flip(1)), x)
