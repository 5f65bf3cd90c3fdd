"""torch.compile without graph breaks, with sizes that change, and torch.export.

Most tests stop before code generation, which says nothing about the ops and takes long.
"""

from __future__ import annotations

import pytest
import torch
from op_support.cases import Inputs
from op_support.functions import FUNCTIONS, ONE_OF_EACH, require_gradients
from torch import Tensor, nn

from fastalign import ops


def _value_and_gradients(call, function, tensors):
    wanted = require_gradients(function, tensors)
    out = call(*tensors)
    # A gradient with strides of its own: an expanded one may be laid out anew by the compiler, and
    # sums over another layout are taken in another order.
    return out.detach(), *torch.autograd.grad(out, wanted, torch.ones_like(out))


def _counting():
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    return CompileCounterWithBackend("aot_eager")


def _compiled(function, backend, dynamic=None):
    """The function compiled in one graph, and the counter of graphs."""
    counter = _counting()

    def call(*tensors: Tensor | None) -> Tensor:
        return function(*tensors, backend=backend.name)

    return torch.compile(call, backend=counter, fullgraph=True, dynamic=dynamic), counter


def _expected(function, backend, tensors):
    return _value_and_gradients(
        lambda *given: function(*given, backend=backend.name), function, tensors
    )


@pytest.mark.parametrize(
    "function",
    [f for f in FUNCTIONS if "nearest" not in str(f) and "align_corners" not in str(f)],
    ids=str,
)
def test_one_graph(function, traced):
    """Forward and backward; inputs channels_last, so that strides matter."""
    tensors = function.make(Inputs(torch.float32, traced.device, "channels_last"))
    traced.require(function.name, *(value for value in tensors if value is not None))
    compiled, counter = _compiled(function, traced)
    found = _value_and_gradients(compiled, function, tensors)
    for out, wanted in zip(found, _expected(function, traced, tensors), strict=True):
        assert torch.equal(out, wanted) and out.stride() == wanted.stride()
    assert counter.frame_count == 1


@pytest.mark.parametrize("function", ONE_OF_EACH, ids=str)
def test_one_graph_for_all_sizes(function, traced):
    compiled, counter = _compiled(function, traced, dynamic=True)
    # Equal sizes in the first call would be taken to be equal always: theta's 3 is one of them.
    for shape in ((5, 4, 6, 7), (4, 4, 7, 5), (6, 4, 4, 9)):
        tensors = function.make(Inputs(torch.float32, traced.device, shape=shape))
        traced.require(function.name, *(value for value in tensors if value is not None))
        found = _value_and_gradients(compiled, function, tensors)
        for out, wanted in zip(found, _expected(function, traced, tensors), strict=True):
            torch.testing.assert_close(out, wanted)
    assert counter.frame_count == 1


@pytest.mark.parametrize("function", ["dense_similarity_loss", "pairwise_distance_loss"])
def test_losses_without_gradients_compile(function, traced):
    """need_p and the like are settled while tracing: no gradient is computed for nobody."""
    compiled = torch.compile(
        lambda *given: getattr(ops, function)(*given, backend=traced.name),
        backend=_counting(),
        fullgraph=True,
    )
    features = [torch.randn(3, 4, 5, 6, device=traced.device, requires_grad=True)]
    features *= 2 if function.startswith("dense") else 1
    traced.require(function, *features)
    with torch.no_grad():
        out = compiled(*features)
    assert not out.requires_grad
    torch.testing.assert_close(out, getattr(ops, function)(*features, backend=traced.name))


class AllOps(nn.Module):
    """Every op, with gradients through all of them."""

    def __init__(self, backend: str, channels: int = 4, height: int = 5, width: int = 6) -> None:
        super().__init__()
        self.backend = backend
        generator = torch.Generator().manual_seed(0)
        packed = channels * (channels + 1) // 2
        self.offset = nn.Parameter(torch.randn(6, generator=generator) * 0.1)
        self.mean = nn.Parameter(torch.randn(channels, height, width, generator=generator))
        self.whitener = nn.Parameter(torch.randn(height * width, packed, generator=generator))

    def forward(self, x: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        theta = ops.affine.from_parameters(self.offset.expand(x.shape[0], 6), "affine")
        theta = ops.affine.compose(theta, ops.affine.invert(theta * 0.9))
        mask = ops.affine.valid_mask(theta, x.shape[2:])
        with_name = {"backend": self.backend}
        warped = ops.warp_affine(x, theta, padding_mode="border", **with_name)
        loss = (
            ops.pairwise_distance_loss(warped, mask, groups, **with_name)
            + ops.pairwise_distance(warped, mask, groups, squared=True, **with_name).mean()
            + ops.dense_similarity_loss(warped, x, groups, **with_name)
            + ops.dense_similarity(x, warped, **with_name).square().mean()
        )
        return loss, ops.mahalanobis(warped, self.mean, self.whitener, **with_name)


def _batch(size: int, backend) -> tuple[Tensor, Tensor]:
    inputs = Inputs(torch.float32, backend.device, shape=(size, 4, 5, 6))
    return inputs.features(), inputs.groups()


def _model(backend, *tensors: Tensor) -> AllOps:
    for stem in ("dense_similarity", "pairwise_distance", "warp_affine", "mahalanobis"):
        backend.require(stem, *tensors)
    return AllOps(backend.name).to(backend.device)


def _parameters_gradients(call, model, batch):
    loss, distance = call(*batch)
    return loss, distance, *torch.autograd.grad(loss + distance.mean(), list(model.parameters()))


def test_code_generation(traced):
    """The default compiler, forward and backward, with all ops in one graph."""
    batch = _batch(4, traced)
    model = _model(traced, batch[0])
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True)
    found = _parameters_gradients(compiled, model, batch)
    for out, wanted in zip(found, _parameters_gradients(model, model, batch), strict=True):
        torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-5)


def test_export(traced):
    """One program for any number of images, with the ops as such in it."""
    batch = _batch(4, traced)
    model = _model(traced, batch[0]).requires_grad_(False)
    images = torch.export.Dim("images", min=2, max=64)
    program = torch.export.export(model, batch, dynamic_shapes=({0: images}, {0: images}))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    for stem in ("warp_affine", "mahalanobis", "dense_similarity_loss", "pairwise_distance_loss"):
        assert f"fastalign.{stem}.default" in called
    for size in (4, 7):
        for out, wanted in zip(
            program.module()(*_batch(size, traced)), model(*_batch(size, traced)), strict=True
        ):
            torch.testing.assert_close(out, wanted)
