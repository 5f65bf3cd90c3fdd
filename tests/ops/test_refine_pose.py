"""``refine_pose`` against its definition, and what only an op with two results and no op for its
gradient has. What every op promises is tested in test_every_op.py."""

from __future__ import annotations

import pytest
import torch
from op_support import stems
from op_support.cases import Inputs
from op_support.tolerance import assert_accurate
from torch import Tensor

from fastalign import ops
from fastalign.export import plain_ops
from fastalign.ops import affine
from fastalign.ops.reference.refine_pose import refine_pose_derivable

support = stems.of("refine_pose")


def given(family="similarity", steps=3, dtype=torch.float64, shape=(2, 1, 9, 12), **options):
    return support.arguments(Inputs(dtype, shape=shape, **options), family, steps)


def off(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).abs().max())


@pytest.mark.parametrize("family", sorted(affine.FAMILIES))
def test_values(family, backend):
    inputs = Inputs(torch.float64, backend.device, shape=(2, 1, 9, 12))
    arguments = support.arguments(inputs, family, 3)
    backend.require("refine_pose", *arguments[:5])
    found = ops.refine_pose(*arguments, backend=backend.name)
    wanted = support.definition(*(a.cpu() if isinstance(a, Tensor) else a for a in arguments))
    for out, exact in zip(found, wanted, strict=True):
        assert_accurate(out, exact, ulps=4096)
    assert off(found[0], arguments[1]) > 1e-3


@pytest.mark.parametrize("family", ["translation", "rotation_translation", "affine"])
def test_poses_are_those_of_the_formula_in_float64_to_rounding(family, backend):
    """On the size that models refine at and with all of the steps of a search: theta differs by
    less than a millionth of half the image, 3e-5 pixels of 64."""
    inputs = Inputs(torch.float32, backend.device, shape=(3, 1, 64, 64))
    arguments = support.arguments(inputs, family, 8)
    theta, correlation = backend.run("refine_pose", *arguments)
    exact = [a.cpu().double() if isinstance(a, Tensor) else a for a in arguments]
    wanted, best = ops.refine_pose(*exact, backend="reference")
    assert off(theta.cpu(), wanted) < 1e-6 and off(correlation.cpu(), best) < 1e-6


def test_more_images_or_candidates_change_no_bit(backend):
    edges, theta, *rest = given(dtype=torch.float32, shape=(2, 1, 17, 33))
    arguments = (
        [a.to(backend.device) for a in (edges, theta)],
        [a.to(backend.device) if isinstance(a, Tensor) else a for a in rest],
    )
    (edges, theta), rest = arguments
    together = backend.run("refine_pose", edges, theta, *rest)
    for b in range(2):
        alone = backend.run("refine_pose", edges[b : b + 1], theta[b : b + 1, 1:], *rest)
        assert all(torch.equal(a[0, 0], t[b, 1]) for a, t in zip(alone, together, strict=True))


def test_what_lies_outside_of_the_image_or_is_lost_spoils_nothing(backend):
    """Candidates that are not finite, or show nothing, beside good ones; NaN where none looks."""
    edges, theta, template, weight, generators, steps = (
        a.to(backend.device) if isinstance(a, Tensor) else a
        for a in given("translation", dtype=torch.float32, shape=(1, 1, 16, 16))
    )
    theta = affine.identity(4, device=backend.device)[None]
    good = backend.run("refine_pose", edges, theta[:, :1], template, weight, generators, steps)
    theta[0, 1] = torch.nan
    theta[0, 2, 0, 2] = 9
    theta[0, 3, 1, 1] = torch.inf
    edges[..., 0, 0] = torch.nan  # less than a pixel from the border
    found, best = backend.run("refine_pose", edges, theta, template, weight, generators, steps)
    assert best[0, 0] > 0.5 and best[0, 1:].tolist() == [-1, -1, -1]
    assert torch.equal(found[:, 0], good[0][:, 0]) and torch.equal(best[:, 0], good[1][:, 0])


def test_an_image_that_is_not_finite_is_no_pose(backend):
    edges, *rest = given("affine", dtype=torch.float32)
    edges[1] = torch.nan
    arguments = [a.to(backend.device) if isinstance(a, Tensor) else a for a in (edges, *rest)]
    _, best = backend.run("refine_pose", *arguments)
    assert (best[0] > 0.5).all() and (best[1] == -1).all()


def test_no_candidates_and_no_steps(backend):
    edges, theta, *rest = (
        a.to(backend.device) if isinstance(a, Tensor) else a for a in given(dtype=torch.float32)
    )
    found, best = backend.run("refine_pose", edges, theta[:, :0], *rest)
    assert found.shape == (2, 0, 2, 3) and best.shape == (2, 0)
    found, best = backend.run("refine_pose", edges, theta, *rest[:-1], 0)
    assert torch.equal(found, theta) and found.data_ptr() != theta.data_ptr()


def test_a_gradient_is_that_of_the_formula_and_can_be_differentiated_again():
    arguments = given("rotation_translation", 2)
    leaves = [a.clone().requires_grad_() for a in arguments[:5]]
    found = torch.autograd.grad(
        sum(out.sum() for out in ops.refine_pose(*leaves, 2)), leaves, create_graph=True
    )
    again = [a.clone().requires_grad_() for a in arguments[:5]]
    wanted = torch.autograd.grad(
        sum(out.sum() for out in refine_pose_derivable(*again, 2)), again, create_graph=True
    )
    for gradient, expected in zip(found, wanted, strict=True):
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
    second = [torch.autograd.grad(g[0].square().sum(), t[0])[0] for g, t in ((found, leaves),)]
    assert second[0].isfinite().all() and second[0].abs().max() > 0


def test_torch_func_takes_it():
    edges, theta, *rest = given(shape=(1, 1, 9, 12))
    several = torch.stack([theta, theta + 0.01])

    def call(theta: Tensor) -> Tensor:
        return ops.refine_pose(edges, theta, *rest)[0]

    looped = torch.stack([call(one) for one in several])
    torch.testing.assert_close(torch.vmap(call)(several), looped)
    _, tangent = torch.func.jvp(call, (theta,), (torch.ones_like(theta),))
    step = 1e-6
    slope = (call(theta + step) - call(theta - step)) / (2 * step)
    torch.testing.assert_close(tangent, slope, rtol=1e-4, atol=1e-6)


def test_it_compiles_to_one_graph_for_any_number_of_images():
    compiled = torch.compile(ops.refine_pose, backend="aot_eager", fullgraph=True, dynamic=True)
    for batch in (2, 3):
        arguments = given(dtype=torch.float32, shape=(batch, 1, 9, 12))
        for out, wanted in zip(compiled(*arguments), ops.refine_pose(*arguments), strict=True):
            assert torch.equal(out, wanted)


@pytest.mark.parametrize("steps", [0, 2])
def test_its_plain_form_holds_torch_ops_alone(steps):
    arguments = given("affine", steps, torch.float32)

    class Refine(torch.nn.Module):
        def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
            return ops.refine_pose(*tensors, steps)

    with plain_ops():
        program = torch.export.export(Refine(), arguments[:5])
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert names and not any("fastalign" in name for name in names)
    wanted = ops.refine_pose(*arguments)
    for out, exact in zip(program.module()(*arguments[:5]), wanted, strict=True):
        torch.testing.assert_close(out, exact, rtol=0, atol=1e-5)
