"""Values and gradients of the public functions against their definitions: loops over all pairs."""

from __future__ import annotations

import pytest
import torch
from op_support import stems
from op_support.cases import DTYPES, OTHER_SIZE, Inputs, accumulation, narrowed, short
from op_support.functions import FUNCTIONS, ONE_OF_EACH, Function, require_gradients
from op_support.tolerance import (
    assert_accurate,
    assert_gradient_aggregate,
    edge_band,
    float64_yardstick,
)
from torch import Tensor

every_function = pytest.mark.parametrize("function", FUNCTIONS, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=short)


def _on_cpu(tensors: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(None if value is None else value.detach().cpu() for value in tensors)


def _two_answers(function: Function, tensors: tuple[Tensor | None, ...]) -> Tensor | None:
    """Where rounding may choose another pixel: nearest at a pixel edge."""
    if function.options.get("mode") != "nearest":
        return None
    x, theta = tensors
    corners = function.options["align_corners"]
    return edge_band(theta, x.shape[2:], OTHER_SIZE, corners, "nearest").unsqueeze(1)


@every_function
@every_dtype
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted"])
def test_values(function, dtype, layout, backend):
    tensors = function.make(Inputs(dtype, backend.device, layout))
    backend.require(function.name, *(value for value in tensors if value is not None))
    out = function(*tensors, backend=backend.name)
    on_cpu = _on_cpu(tensors)
    exact = function.defined(*on_cpu)
    plain = function.defined(*on_cpu, dtype=accumulation(dtype)).to(out.dtype)
    if dtype == torch.float64:
        rounded = narrowed(on_cpu)
        narrow = function.defined(*rounded, dtype=torch.float32)
        plain = float64_yardstick(exact, narrow, function.defined(*rounded))
    assert out.dtype == (dtype if function.name == "warp_affine" else accumulation(dtype))
    assert_accurate(out, exact, plain, ignore=_two_answers(function, tensors), name=str(function))


def _gradients(function, tensors, weight, dtype):
    """By autograd through the definition, in ``dtype``."""
    leaves = [
        value.detach().to(dtype) if n in function.derivable else value
        for n, value in enumerate(tensors)
    ]
    wanted = require_gradients(function, leaves)
    out = function.defined(*leaves, dtype=dtype)
    return torch.autograd.grad(out, wanted, weight.to(dtype))


@every_function
@every_dtype
def test_gradients(function, dtype, backend):
    tensors = function.make(Inputs(dtype, backend.device, "channels_last"))
    backend.require(function.name, *(value for value in tensors if value is not None))
    wanted = require_gradients(function, tensors)
    out = function(*tensors, backend=backend.name)
    weight = torch.randn_like(out)
    found = torch.autograd.grad(out, wanted, weight)
    on_cpu = _on_cpu(tensors)
    exact = _gradients(function, on_cpu, weight.cpu(), torch.float64)
    plain = _gradients(function, on_cpu, weight.cpu(), accumulation(dtype))
    if dtype == torch.float64:
        rounded, narrow_weight = narrowed(on_cpu), weight.cpu().float()
        narrow, best = (
            _gradients(function, rounded, narrow_weight, one)
            for one in (torch.float32, torch.float64)
        )
        plain = tuple(map(float64_yardstick, exact, narrow, best))
    for gradient, leaf, best, same in zip(found, wanted, exact, plain, strict=True):
        assert gradient.dtype == leaf.dtype and gradient.shape == leaf.shape
        same = same.to(gradient.dtype)
        name = f"gradient of {function}"
        assert_accurate(gradient, best, same, name=name)
        few_ulps = 4 * torch.finfo(gradient.dtype).eps
        assert_gradient_aggregate(gradient, best, same, relative=few_ulps, name=name)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("corners", [False, True])
def test_warp_samples_the_pixels_it_should(mode, padding, corners, backend):
    """Against sampling pixel by pixel, which shares no code with torch's samplers."""
    inputs = Inputs(torch.float64, backend.device, shape=(3, 2, 5, 7))
    x, theta = inputs.features(), inputs.theta(size=0.6)
    backend.require("warp_affine", x, theta)
    arguments = x, theta, (4, 6), mode, padding, corners
    out = torch.ops.fastalign.warp_affine(*arguments, backend=backend.name)
    exact = stems.of("warp_affine").by_pixel(x.cpu(), theta.cpu(), *arguments[2:])
    assert_accurate(out, exact, ulps=64)


@pytest.mark.parametrize("function", ONE_OF_EACH, ids=str)
def test_a_gradient_that_nobody_asked_for_is_not_computed(function, backend):
    """Each derivable tensor alone gets the gradient that it gets together with the others."""

    def gradients(which=None):
        tensors = function.make(Inputs(torch.float32, backend.device))
        backend.require(function.name, *(value for value in tensors if value is not None))
        wanted = require_gradients(function, tensors, which)
        return torch.autograd.grad(function(*tensors, backend=backend.name).sum(), wanted)

    for n, expected in zip(function.derivable, gradients(), strict=True):
        assert torch.equal(gradients((n,))[0], expected)
