from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from fastalign.errors import ConfigError
from fastalign.nn import SpatialAlign
from fastalign.ops import affine

FAMILIES = sorted(affine.FAMILIES)


def extreme(layer: SpatialAlign, size: float = 1e6) -> SpatialAlign:
    """The layer with a head that asks for far more than its bounds allow."""
    torch.nn.init.normal_(layer.head.weight, std=size)
    torch.nn.init.normal_(layer.head.bias, std=size)
    return layer


def parameters_of(layer: SpatialAlign, values: torch.Tensor) -> torch.Tensor:
    """theta of a layer whose head always asks for ``values``."""
    with torch.no_grad():
        layer.head.bias.copy_(values)
    return layer.localise(torch.rand(1, layer.in_channels, 16, 16))[0].detach()


# Start ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("aspect", [1.0, 0.4, 2.5])
def test_it_starts_as_the_identity(family, aspect):
    x = torch.randn(3, 4, 12, 20)
    aligned, theta, valid = SpatialAlign(4, family, aspect=aspect)(x)
    assert torch.equal(theta, affine.identity(3))
    torch.testing.assert_close(aligned, x, atol=1e-5, rtol=0)
    assert valid.all() and valid.dtype == torch.bool and valid.shape == (3, 12, 20)


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 7), (5, 3), (16, 16), (33, 65)], ids=lambda size: f"{size[0]}x{size[1]}"
)
def test_any_height_and_width(size):
    layer = extreme(SpatialAlign(2), 0.1)
    aligned, theta, valid = layer(torch.randn(2, 2, *size))
    assert aligned.shape == (2, 2, *size) and theta.shape == (2, 2, 3) and valid.shape == (2, *size)
    assert aligned.isfinite().all() and theta.dtype == torch.float32


def test_an_empty_batch():
    aligned, theta, valid = SpatialAlign(2)(torch.zeros(0, 2, 8, 8))
    assert aligned.shape == (0, 2, 8, 8) and theta.shape == (0, 2, 3) and valid.shape == (0, 8, 8)


# Bounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(4))
def test_bounds_hold_whatever_the_head_asks_for(family, seed):
    torch.manual_seed(seed)
    layer = SpatialAlign(3, family, max_shift=0.1, max_angle=20, max_scale=1.25)
    theta = extreme(layer).localise(torch.randn(64, 3, 16, 16))
    assert theta.isfinite().all()
    names = affine.FAMILIES[family]
    found = affine.magnitude(theta)
    # Rounding aside.
    assert theta[..., 2].abs().max() <= 2 * 0.1 + 1e-6
    if not any(name.startswith("shift") for name in names):
        assert not theta[..., 2].any()
    if "angle" in names:
        assert found["rotation"].abs().max() <= 20 + 1e-3
        assert found["rotation"].abs().max() > 19
    if "log_scale" in names:
        assert found["scale"].max() <= 1.25 + 1e-5 and found["scale"].min() >= 1 / 1.25 - 1e-5
    if "log_scale_x" in names:
        for entry in (theta[:, 0, 0], theta[:, 1, 1]):
            assert entry.max() <= 1.25 + 1e-5 and entry.min() >= 1 / 1.25 - 1e-5
    if family in ("shear", "affine"):
        linear = theta[..., :2] - torch.eye(2)
        assert 0.24 < linear.abs().max() <= 0.25 + 1e-6


def test_small_parameters_pass_unchanged_and_large_ones_reach_their_own_bound():
    layer = SpatialAlign(2, "similarity", max_shift=0.2, max_angle=90, max_scale=2.0)
    small = torch.tensor([0.01, 0.02, -0.01, 0.03])
    expected = affine.from_parameters(small, "similarity")
    torch.testing.assert_close(parameters_of(layer, small), expected, atol=1e-4, rtol=0)
    bounds = torch.tensor([math.pi / 2, -math.log(2), 0.4, -0.4])
    expected = affine.from_parameters(bounds, "similarity")
    torch.testing.assert_close(parameters_of(layer, bounds * 1e4), expected)


def test_the_bound_is_a_tanh_of_unit_slope():
    layer = SpatialAlign(1, "rotation", max_angle=30)
    for asked in (0.05, 0.3, 1.0):
        bound = math.radians(30)
        expected = math.degrees(bound * math.tanh(asked / bound))
        theta = parameters_of(layer, torch.tensor([asked]))
        assert float(affine.magnitude(theta)["rotation"]) == pytest.approx(expected, abs=1e-3)


def test_a_rotation_is_one_in_true_units():
    layer = SpatialAlign(1, "rotation", aspect=2.0)
    theta = parameters_of(layer, torch.tensor([0.3]))
    to_true = torch.diag(torch.tensor([2.0, 1.0]))
    rotation = to_true @ theta[:, :2] @ torch.linalg.inv(to_true)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(2), atol=1e-6, rtol=0)


# Warping -------------------------------------------------------------------------------------


def test_the_warp_is_affine_grid_and_grid_sample():
    layer = extreme(SpatialAlign(3, "similarity", padding_mode="zeros"), 0.3)
    x = torch.randn(2, 3, 11, 17)
    aligned, theta, _ = layer(x)
    assert not torch.allclose(theta, affine.identity(2), atol=1e-2)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    torch.testing.assert_close(
        aligned, F.grid_sample(x, grid, align_corners=False), atol=1e-4, rtol=0
    )


def test_a_given_theta_takes_the_place_of_the_localiser():
    layer = extreme(SpatialAlign(2))
    x = torch.randn(1, 2, 8, 8)
    # A quarter of the width to the left.
    theta = torch.tensor([[[1, 0, 0.5], [0, 1, 0.0]]])
    aligned, used, _ = layer(x, theta)
    assert used is theta
    torch.testing.assert_close(aligned[..., :6], x[..., 2:], atol=1e-5, rtol=0)


def test_valid_tells_what_the_input_covers():
    theta = torch.tensor([[[1, 0, 0.5], [0, 1, 0.0]], [[1, 0, 0.0], [0, 1, -1.0]]])
    aligned, _, valid = SpatialAlign(1)(torch.ones(2, 1, 8, 8), theta)
    expected = torch.zeros(2, 8, 8, dtype=torch.bool)
    expected[0, :, :6] = True
    expected[1, 4:] = True
    assert torch.equal(valid, expected)
    assert torch.equal(aligned, torch.ones(2, 1, 8, 8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_features_get_theta_in_float32(dtype):
    layer = extreme(SpatialAlign(3), 0.1)
    x = torch.randn(2, 3, 16, 16)
    aligned, theta, _ = layer(x.to(dtype))
    assert aligned.dtype == dtype and theta.dtype == torch.float32
    torch.testing.assert_close(theta, layer.localise(x), atol=0.05, rtol=0)


def test_channels_last_is_kept():
    x = torch.randn(2, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    assert SpatialAlign(4)(x).aligned.is_contiguous(memory_format=torch.channels_last)


# Training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_the_localiser_and_the_input(family):
    layer = extreme(SpatialAlign(2, family), 0.1)
    x = torch.rand(3, 2, 16, 16, requires_grad=True)
    (layer(x).aligned * torch.randn(3, 2, 16, 16)).sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name
    assert x.grad.any()


def test_at_the_start_the_head_alone_moves_and_then_everything():
    layer = SpatialAlign(2)
    x, target = torch.rand(2, 2, 16, 16), torch.rand(2, 2, 16, 16)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    (layer(x).aligned * target).sum().backward()
    assert layer.head.bias.grad.any() and layer.head.weight.grad.any()
    optimizer.step()
    optimizer.zero_grad()
    (layer(x).aligned * target).sum().backward()
    assert all(parameter.grad.any() for parameter in layer.parameters())


def test_it_learns_a_shift():
    """Blobs at random places are brought to the middle, which only a pose per image can do."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 16), torch.linspace(-1, 1, 16), indexing="ij")

    def blobs(centres):
        squared = (x - centres[:, :1, None]).square() + (y - centres[:, 1:, None]).square()
        return torch.exp(-squared / 0.08)[:, None]

    layer = SpatialAlign(1, "translation")
    optimizer = torch.optim.Adam(layer.parameters(), lr=3e-3)
    middle = blobs(torch.zeros(1, 2))
    losses = []
    for _ in range(150):
        images = blobs(torch.rand(16, 2) * 0.6 - 0.3)
        loss = (layer(images).aligned - middle).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < 0.2 * sum(losses[:10])


def test_the_state_dict_holds_learned_tensors_alone():
    layer = SpatialAlign(3)
    assert set(layer.state_dict()) == {name for name, _ in layer.named_parameters()}
    copy = SpatialAlign(3)
    copy.load_state_dict(extreme(layer, 0.1).state_dict())
    x = torch.randn(2, 3, 9, 9)
    assert torch.equal(copy(x).aligned, layer(x).aligned)


# Errors --------------------------------------------------------------------------------------


def test_a_family_that_there_is_not_is_named():
    with pytest.raises(ConfigError, match="family='projective', expected one of .*similarity"):
        SpatialAlign(3, "projective")


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (3, 8, 8)])
def test_inputs_of_another_shape_are_named(shape):
    with pytest.raises(ValueError, match=r"SpatialAlign: x has shape .*expected \[B, 3, H, W\]"):
        SpatialAlign(3)(torch.zeros(shape))


@pytest.mark.parametrize("size", [(16, 16), (37, 50), (5, 16), (1, 3)])
def test_the_localiser_sees_averages_of_its_input(size):
    from fastalign.nn.spatial_align import _pooled

    x = torch.rand(2, 3, *size)
    with torch.inference_mode():
        _pooled(x, 16)
    x.requires_grad_()
    pooled = _pooled(x, 16)
    torch.testing.assert_close(pooled, torch.nn.functional.adaptive_avg_pool2d(x, 16))
    pooled.sum().backward()
    assert x.grad is not None
