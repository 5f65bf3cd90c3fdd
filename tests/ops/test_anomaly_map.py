"""``anomaly_map`` against its definition, and what only an op with two results and no op for its
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
from fastalign.nn.smoothing import gaussian_taps, smooth
from fastalign.ops import affine

support = stems.of("anomaly_map")
SIZES = {
    "smaller": {"size": (3, 4), "count": 7},
    "larger": {"size": (13, 21), "count": 3},
    "a row": {"size": (1, 9), "count": 5},
    "weights": {"size": None, "count": 9, "mask": False},
}


def given(dtype=torch.float64, shape=(2, 1, 5, 7), device="cpu", **options):
    return support.arguments(Inputs(dtype, device, shape=shape), **options)


@pytest.mark.parametrize("options", SIZES.values(), ids=SIZES)
def test_values(options, backend):
    arguments = given(torch.float32, device=backend.device, **options)
    found = backend.run("anomaly_map", *arguments)
    wanted = support.definition(*(a.cpu() if isinstance(a, Tensor) else a for a in arguments))
    for out, exact in zip(found, wanted, strict=True):
        assert_accurate(out, exact, ulps=64)


def test_it_is_the_warp_the_smoothing_and_the_division(backend):
    """As many rows as are cut into strips, and a row that is no whole number of vectors."""
    distance, theta, evidence, *_ = given(torch.float32, (3, 1, 20, 23), backend.device)
    sigma, size = 2.0, (150, 139)
    taps = gaussian_taps(sigma, device=backend.device)
    value, share = backend.run("anomaly_map", distance, theta, evidence, taps, size)
    both = torch.stack([distance[:, 0] * evidence, evidence.float()], 1)
    both = smooth(ops.warp_affine(both, affine.invert(theta), size), sigma)
    torch.testing.assert_close(share, both[:, 1], rtol=0, atol=3e-6)
    seen = share > 0.05
    exact = both[:, 0] / both[:, 1].clamp_min(1e-6)
    assert seen.any() and not seen.all()
    torch.testing.assert_close(value[seen], exact[seen], rtol=3e-5, atol=0)


def test_more_images_change_no_bit(backend):
    distance, theta, evidence, *rest = given(torch.float32, (4, 1, 9, 12), backend.device)
    together = backend.run("anomaly_map", distance, theta, evidence, *rest)
    alone = backend.run("anomaly_map", distance[2:3], theta[2:3], evidence[2:3], *rest)
    assert all(torch.equal(one[0], all_[2]) for one, all_ in zip(alone, together, strict=True))


def test_what_is_not_finite_stays_in_its_image_and_near_its_place(backend):
    distance, theta, evidence, *_ = given(torch.float32, (4, 1, 20, 20), backend.device)
    evidence[:] = True
    theta[:] = affine.identity(1, device=backend.device)
    taps, size = support.gaussian(5).float().to(backend.device), (20, 20)
    clean, _ = backend.run("anomaly_map", distance, theta, evidence, taps, size)
    distance[1, 0, 8, 9] = torch.nan
    theta[2] = 0  # has no inverse
    found, _ = backend.run("anomaly_map", distance, theta, evidence, taps, size)
    assert torch.equal(found[0], clean[0]) and torch.equal(found[3], clean[3])
    lost = found[1].isnan().nonzero()
    assert lost[:, 0].min() >= 5 and lost[:, 0].max() <= 11 and len(lost) >= 25
    assert lost[:, 1].min() >= 6 and lost[:, 1].max() <= 12
    assert not found[2].isfinite().any()


def test_a_gradient_is_that_of_the_formula_and_can_be_differentiated_again():
    distance, theta, evidence, taps, size = given(shape=(2, 1, 4, 3), mask=False, count=3)
    size = (5, 4)
    leaves = [a.clone().requires_grad_() for a in (distance, theta, evidence, taps)]

    def call(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return ops.anomaly_map(*tensors, size)

    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


def test_torch_func_takes_it():
    distance, *rest = given()
    several = torch.stack([distance, distance + 0.1])

    def call(distance: Tensor) -> Tensor:
        return ops.anomaly_map(distance, *rest)[0]

    looped = torch.stack([call(one) for one in several])
    torch.testing.assert_close(torch.vmap(call)(several), looped)
    _, tangent = torch.func.jvp(call, (distance,), (torch.ones_like(distance),))
    torch.testing.assert_close(tangent, call(distance + 1) - call(distance))


def test_it_compiles_to_one_graph_for_any_number_of_images():
    compiled = torch.compile(ops.anomaly_map, backend="aot_eager", fullgraph=True, dynamic=True)
    for batch in (2, 3):
        arguments = given(torch.float32, (batch, 1, 9, 12))
        for out, wanted in zip(compiled(*arguments), ops.anomaly_map(*arguments), strict=True):
            assert torch.equal(out, wanted)


def test_its_plain_form_holds_torch_ops_alone():
    *tensors, size = given(torch.float32, count=9)

    class Map(torch.nn.Module):
        def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
            return ops.anomaly_map(*tensors, size)

    with plain_ops():
        program = torch.export.export(Map(), tuple(tensors))
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert names and not any("fastalign" in name for name in names)
    wanted = ops.anomaly_map(*tensors, size)
    for out, exact in zip(program.module()(*tensors), wanted, strict=True):
        torch.testing.assert_close(out, exact, rtol=1e-4, atol=1e-5)
