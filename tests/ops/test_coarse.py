"""``mahalanobis`` with a coarser map and a scale, against its definition, and what only arguments
without an op for their gradient have. What every op promises is tested in test_every_op.py."""

from __future__ import annotations

import pytest
import torch
from op_support import stems
from op_support.cases import Inputs
from op_support.tolerance import assert_accurate
from torch import Tensor

from fastalign import ops
from fastalign.export import plain_ops

support = stems.of("mahalanobis")
FORMS = ("", "low rank")


def distance(x: Tensor, mean: Tensor, whitener: Tensor, coarse: Tensor, scale: Tensor) -> Tensor:
    return ops.mahalanobis(x, mean, whitener, coarse=coarse, scale=scale)


def given(form, dtype=torch.float64, device="cpu", shape=(2, 3, 4, 5), layout="contiguous"):
    i = Inputs(dtype, device, layout, shape)
    return i.features(), i.mean(), support.WHITENERS[form](i), *support.beside(i, (True, True))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 4)], ids=str)
def test_values(form, size, backend):
    """A single pixel for all, a coarser map, and a finer one."""
    inputs = Inputs(torch.float32, backend.device, "channels_last", (2, 19, 4, 5))
    x, mean = inputs.features(), inputs.mean()
    whitener, coarse = support.WHITENERS[form](inputs), inputs.other_size(*size)
    scale = inputs.scale()
    found = backend.run("mahalanobis", x, mean, whitener, coarse, scale, False)
    tensors = (t.cpu() for t in (x, mean, whitener, coarse, scale))
    assert_accurate(found, support.definition(*tensors), ulps=32)
    assert torch.equal(found == 0, (scale == 0).expand_as(found)) and (scale == 0).any()


@pytest.mark.parametrize("form", FORMS)
def test_what_the_scale_rules_out_may_hold_anything(form, backend):
    x, mean, whitener, coarse, scale = given(form, torch.float32, backend.device)
    clean = backend.run("mahalanobis", x, mean, whitener, coarse, scale, False)
    x[:, :, scale == 0] = torch.nan
    assert torch.equal(backend.run("mahalanobis", x, mean, whitener, coarse, scale, False), clean)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_any_order(form):
    tensors = [t.contiguous().requires_grad_() for t in given(form, shape=(2, 3, 2, 3))]
    with torch.no_grad():
        tensors[4] += 0.3  # a scale that is 0 has no derivative
    assert torch.autograd.gradcheck(distance, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(distance, tensors, fast_mode=True)
    # Without the two the gradient is that of the op for it.
    x = tensors[0].detach().requires_grad_()
    (alone,) = torch.autograd.grad(ops.mahalanobis(x, *tensors[1:3]).sum(), x)
    by_op = torch.ops.fastalign.mahalanobis_backward(
        x.new_ones(2, 2, 3), *(t.detach() for t in tensors[:3]), False, True, False, False
    )
    assert torch.equal(alone, by_op[0])


def test_what_has_no_support_has_no_gradient():
    x, mean, whitener, coarse, scale = given("low rank")
    x[:, :, scale == 0] = torch.nan
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(distance(x, mean, whitener, coarse, scale).sum(), x)
    assert gradient.isfinite().all() and gradient.abs().max() > 0


@pytest.mark.parametrize("moved", [0, 1, 3, 4])
def test_torch_func_takes_it(moved):
    """One at a time, so that the elements join along images, along rows, or not at all."""
    tensors = given("low rank")

    def call(value: Tensor) -> Tensor:
        arguments = list(tensors)
        arguments[moved] = value
        return distance(*arguments)

    own = tensors[moved]
    several = torch.stack([own, own * 1.1 + 0.1])
    looped = torch.stack([call(one) for one in several])
    torch.testing.assert_close(torch.vmap(call)(several), looped)
    _, tangent = torch.func.jvp(call, (own,), (torch.ones_like(own),))
    step = 1e-6
    slope = (call(own + step) - call(own - step)) / (2 * step)
    mask = tensors[4] > 1e-3
    torch.testing.assert_close(tangent[:, mask], slope[:, mask], rtol=1e-4, atol=1e-6)


def test_it_compiles_to_one_graph_and_its_plain_form_holds_torch_ops_alone():
    tensors = given("low rank", torch.float32)
    compiled = torch.compile(distance, backend="aot_eager", fullgraph=True, dynamic=True)
    wanted = distance(*tensors)
    assert torch.equal(compiled(*tensors), wanted)

    class Distance(torch.nn.Module):
        def forward(self, *tensors: Tensor) -> Tensor:
            return distance(*tensors)

    with plain_ops():
        program = torch.export.export(Distance(), tensors)
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert names and not any("fastalign" in name for name in names)
    torch.testing.assert_close(program.module()(*tensors), wanted)
