"""torch.func, forward mode and higher derivatives, against loops and finite differences.

The values of first derivatives are test_gradients.py's matter; here they are what transforms must
come to.
"""

from __future__ import annotations

import pytest
import torch
from op_support.cases import Inputs
from op_support.functions import FUNCTIONS, ONE_OF_EACH
from torch import Tensor, func

from fastalign import ops
from fastalign.export import plain_ops

one_of_each = pytest.mark.parametrize("function", ONE_OF_EACH, ids=str)

# Twice by torch's vector_norm and grid_sample is not enough: those that take another way.
SECOND = [f for f in FUNCTIONS if "nearest" not in str(f)]

SMALL = (3, 2, 2, 3)


class Call:
    """A function of its derivable tensors alone, on a backend."""

    def __init__(self, function, backend, seed=0):
        inputs = Inputs(torch.float64, backend.device, shape=SMALL, seed=seed)
        self.function, self.backend = function, backend.name
        self.tensors = function.make(inputs)
        backend.require(function.name, *(value for value in self.tensors if value is not None))
        self.leaves = tuple(self.tensors[place] for place in function.derivable)
        self.every = tuple(range(len(self.leaves)))

    def __call__(self, *leaves: Tensor) -> Tensor:
        given = list(self.tensors)
        for place, leaf in zip(self.function.derivable, leaves, strict=True):
            given[place] = leaf
        return self.function(*given, backend=self.backend)

    def scalar(self, *leaves: Tensor) -> Tensor:
        out = self(*leaves)
        weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype, device=out.device)
        return (out.flatten() * weights).sum()

    def required(self) -> list[Tensor]:
        return [leaf.clone().requires_grad_() for leaf in self.leaves]

    def varied(self, place: int, leaf: Tensor) -> tuple[Tensor, ...]:
        return (*self.leaves[:place], leaf, *self.leaves[place + 1 :])


def assert_same(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def loop_jacobian(call: Call) -> tuple[Tensor, ...]:
    """Row by row, by autograd."""
    leaves = call.required()
    out = call(*leaves)
    rows = [torch.autograd.grad(one, leaves, retain_graph=True) for one in out.flatten()]
    return tuple(
        torch.stack(column).view(*out.shape, *leaf.shape)
        for column, leaf in zip(zip(*rows, strict=True), leaves, strict=True)
    )


@one_of_each
def test_gradients_of_torch_func(function, backend):
    call = Call(function, backend)
    leaves = call.required()
    wanted = torch.autograd.grad(call.scalar(*leaves), leaves)
    assert_same(func.grad(call.scalar, call.every)(*call.leaves), wanted)
    outer = torch.autograd.grad(call.scalar(*leaves), leaves, create_graph=True)
    assert_same(outer, wanted)


@one_of_each
def test_jacobians_in_both_modes(function, backend):
    """jacrev is vmap of the gradient, jacfwd that of the forward mode."""
    call = Call(function, backend)
    wanted = loop_jacobian(call)
    assert_same(func.jacrev(call, call.every)(*call.leaves), wanted)
    assert_same(func.jacfwd(call, call.every)(*call.leaves), wanted)


@one_of_each
@pytest.mark.parametrize("dim", [0, 2])
def test_vmap_of_each_argument_is_a_loop(function, dim, backend):
    """Of the function and of its gradients, over one tensor while the others stay."""
    call = Call(function, backend)
    for place, leaf in enumerate(call.leaves):
        stacked = torch.stack([leaf, leaf * 0.7 + 0.1, -leaf], dim)

        def value(varied, place=place):
            return call(*call.varied(place, varied))

        def gradients(varied, place=place):
            return func.grad(call.scalar, call.every)(*call.varied(place, varied))

        elements = stacked.unbind(dim)
        assert_same(torch.vmap(value, dim)(stacked), torch.stack([value(e) for e in elements]))
        wanted = zip(*(gradients(e) for e in elements), strict=True)
        assert_same(torch.vmap(gradients, dim)(stacked), tuple(map(torch.stack, wanted)))


@one_of_each
def test_vmap_of_all_arguments_is_a_loop(function, backend):
    """Labels and masks included, so that no axis is left to enlarge."""
    elements = [Call(function, backend, seed).tensors for seed in range(3)]
    stacked = [None if one[0] is None else torch.stack(one) for one in zip(*elements, strict=True)]

    def call(*tensors):
        return function(*tensors, backend=backend.name)

    dims = tuple(None if one is None else 0 for one in stacked)
    wanted = torch.stack([call(*tensors) for tensors in elements])
    assert_same(torch.vmap(call, dims)(*stacked), wanted)
    twice = [one if one is None else torch.stack([one, one.flip(0)]) for one in stacked]
    inner = torch.vmap(torch.vmap(call, dims), dims)(*twice)
    assert_same(inner, torch.stack([wanted, wanted.flip(0)]))


@pytest.mark.parametrize("function", SECOND, ids=str)
def test_second_derivatives_by_finite_differences(function, backend):
    call = Call(function, backend)
    assert torch.autograd.gradgradcheck(call, call.required(), fast_mode=True)


@one_of_each
def test_hessians_by_both_modes(function, backend):
    call = Call(function, backend)
    twice = func.jacrev(func.grad(call.scalar, call.every), call.every)(*call.leaves)
    assert_same(func.hessian(call.scalar, call.every)(*call.leaves), twice)
    with plain_ops():
        leaves = call.required()
        first = torch.autograd.grad(call.scalar(*leaves), leaves, create_graph=True)
        total = sum(gradient.sum() for gradient in first)
        plain = torch.autograd.grad(total, leaves) if "warp" not in str(function) else None
    if plain is not None:  # torch's grid_sample has no second derivative
        row = [
            sum(block.sum(tuple(range(call.leaves[n].dim()))) for n, block in enumerate(column))
            for column in zip(*twice, strict=True)
        ]
        assert_same(tuple(row), plain)


@one_of_each
def test_forward_mode_outside_torch_func(function, backend):
    """gradcheck's own: dual numbers, and batches of both kinds of gradient."""
    call = Call(function, backend)
    checks = ("check_forward_ad", "check_batched_grad", "check_batched_forward_grad")
    assert torch.autograd.gradcheck(call, call.required(), **dict.fromkeys(checks, True))


def test_no_derivative_of_a_zero_distance_is_nan(backend):
    """Roots have none at 0: by definition all are 0 there."""
    h = torch.ones(2, 3, 1, 1, dtype=torch.float64, device=backend.device)
    backend.require("pairwise_distance", h)
    for function in (
        lambda h: ops.pairwise_distance(h, backend=backend.name).sum(),
        lambda h: ops.dense_similarity(h * 0, h, backend=backend.name).sum(),
    ):
        assert (func.hessian(function)(h) == 0).all()


def test_a_compiled_transform(backend):
    call = Call(ONE_OF_EACH[-1], backend)
    step = torch.compile(
        lambda *leaves: func.grad(call.scalar, call.every)(*leaves),
        backend="aot_eager",
        fullgraph=True,
    )
    assert_same(step(*call.leaves), func.grad(call.scalar, call.every)(*call.leaves))


def test_errors_speak_of_one_element(backend):
    """Shapes are those that the function was given, not those it was folded to."""
    x = torch.zeros(5, 3, 4, 2, 2, device=backend.device)
    with pytest.raises(ValueError, match=r"theta has shape \[2, 2, 3\], expected \[3, 2, 3\]"):
        torch.vmap(lambda x: ops.warp_affine(x, x.new_zeros(2, 2, 3)))(x)


@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16])
def test_autocast_around_a_transform(low, backend):
    """A theta in 16 bits is taken up there as well, and its gradient comes back as it was."""
    inputs = Inputs(torch.float32, backend.device)
    x, theta = inputs.features(), inputs.theta().to(low)
    backend.require("warp_affine", x, theta.float())
    with torch.autocast(backend.device, dtype=low):
        found = func.grad(lambda t: ops.warp_affine(x, t, backend=backend.name).sum())(theta)
    assert found.dtype == low and found.abs().max() > 0
