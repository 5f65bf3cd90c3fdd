"""Gradients by finite differences, and what autograd may and may not do with the ops."""

from __future__ import annotations

import pytest
import torch
from op_support.cases import Inputs
from op_support.functions import FUNCTIONS, ONE_OF_EACH, require_gradients

from fastalign import ops

every_function = pytest.mark.parametrize("function", FUNCTIONS, ids=str)
one_of_each = pytest.mark.parametrize("function", ONE_OF_EACH, ids=str)
losses = pytest.mark.parametrize(
    "function", [f for f in ONE_OF_EACH if f.name.endswith("_loss")], ids=str
)

SMALL = (4, 3, 2, 3)


def _leaves(function, backend, dtype=torch.float64, layout="contiguous", shape=SMALL):
    """Tensors of which the derivable ones require a gradient, and these alone."""
    tensors = function.make(Inputs(dtype, backend.device, layout, shape))
    backend.require(function.name, *(value for value in tensors if value is not None))
    return tensors, require_gradients(function, tensors)


@every_function
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_finite_differences(function, layout, backend):
    tensors, wanted = _leaves(function, backend, layout=layout)
    places = function.derivable

    def of_wanted(*leaves):
        arguments = list(tensors)
        for place, leaf in zip(places, leaves, strict=True):
            arguments[place] = leaf
        return function(*arguments, backend=backend.name)

    assert torch.autograd.gradcheck(of_wanted, wanted, fast_mode=True)


@losses
@pytest.mark.parametrize("factor", [1.0, -3.0, 0.0])
def test_a_loss_scales_its_stored_gradient(function, factor, backend):
    tensors, wanted = _leaves(function, backend)
    plain = torch.autograd.grad(function(*tensors, backend=backend.name), wanted)
    scaled = torch.autograd.grad(function(*tensors, backend=backend.name) * factor, wanted)
    for was, now in zip(plain, scaled, strict=True):
        torch.testing.assert_close(now, was * factor)


@one_of_each
def test_a_kept_graph_gives_the_same_gradient_again(function, backend):
    """The receiver of the first gradient may change it in place."""
    tensors, wanted = _leaves(function, backend)
    value = function(*tensors, backend=backend.name).sum()
    first = torch.autograd.grad(value, wanted, retain_graph=True)
    kept = [gradient.clone() for gradient in first]
    for gradient in first:
        gradient.zero_()
    for was, now in zip(kept, torch.autograd.grad(value, wanted), strict=True):
        assert torch.equal(was, now)


@one_of_each
def test_gradients_accumulate(function, backend):
    tensors, wanted = _leaves(function, backend)
    function(*tensors, backend=backend.name).sum().backward()
    once = [leaf.grad.clone() for leaf in wanted]
    function(*tensors, backend=backend.name).sum().backward()
    for leaf, gradient in zip(wanted, once, strict=True):
        torch.testing.assert_close(leaf.grad, 2 * gradient)


@pytest.mark.parametrize("function", [ops.dense_similarity, ops.dense_similarity_loss])
def test_one_tensor_as_both_arguments(function, backend):
    features = Inputs(torch.float64, backend.device, shape=SMALL).features().requires_grad_()
    backend.require(function.__name__, features)
    assert torch.autograd.gradcheck(lambda x: function(x, x, backend=backend.name), features)


@one_of_each
def test_without_gradients_there_is_no_graph(function, backend):
    tensors, _ = _leaves(function, backend)
    with torch.no_grad():
        assert not function(*tensors, backend=backend.name).requires_grad
    fixed = [None if value is None else value.detach() for value in tensors]
    assert not function(*fixed, backend=backend.name).requires_grad


@losses
@pytest.mark.parametrize("reentrant", [False, True])
def test_losses_inside_a_checkpoint(function, reentrant, backend):
    from torch.utils.checkpoint import checkpoint

    tensors, wanted = _leaves(function, backend)
    plain = torch.autograd.grad(function(*tensors, backend=backend.name), wanted)
    call = lambda *given: function(*given, backend=backend.name)  # noqa: E731
    checkpoint(call, *tensors, use_reentrant=reentrant).backward()
    for leaf, gradient in zip(wanted, plain, strict=True):
        torch.testing.assert_close(leaf.grad, gradient)


def test_a_loss_op_told_not_to_compute_a_gradient_cannot_give_one(backend):
    p, z = (torch.randn(SMALL, device=backend.device, requires_grad=True) for _ in range(2))
    value, to_p, to_z = backend.run("dense_similarity_loss", p, z, None, True, False)
    assert to_p.shape == p.shape and to_z.shape == (0,)
    with pytest.raises(RuntimeError, match="need_z=False, but z requires a gradient"):
        value.backward()
    value, _ = backend.run("pairwise_distance_loss", p, None, None, False, False)
    with pytest.raises(RuntimeError, match="need_h=False, but h requires a gradient"):
        value.backward()


@losses
def test_float16_losses_keep_gradients_that_a_scaler_saves(function, backend):
    """Single entries lie below float16's range; scaled before they are rounded they do not."""
    shape = (4, 64, 48, 48)
    scale = 2.0**16

    def gradients(dtype):
        generator = torch.Generator().manual_seed(3)
        tensors = [
            (torch.randn(shape, generator=generator) * 50).half().to(dtype).to(backend.device)
            for _ in function.derivable
        ]
        wanted = [tensor.requires_grad_() for tensor in tensors]
        backend.require(function.name, *wanted)
        value = getattr(ops, function.name)(*tensors, backend=backend.name)
        return torch.autograd.grad(value * scale, wanted)

    for half, full in zip(gradients(torch.float16), gradients(torch.float64), strict=True):
        assert (full.abs() / scale).median() < torch.finfo(torch.float16).smallest_normal
        assert (half != 0).float().mean() > 0.99
        # Rounding to float16 costs 0.3 eps; what lies below its range costs several times that.
        error = (half.double() - full).norm() / full.norm()
        assert error < torch.finfo(torch.float16).eps / 2
