from __future__ import annotations

import pytest
import torch
from torch import nn

from fastalign.nn import Predictor, Projector, std_of_normalised


def kinds(head: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in head]


def test_the_projector_is_three_convolutions_with_batchnorm():
    head = Projector(6, 8, 10)
    inner = ["Conv2d", "BatchNorm2d", "ReLU"]
    assert kinds(head) == [*inner, *inner, "Conv2d", "BatchNorm2d"]
    convolutions = [layer for layer in head if isinstance(layer, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [(6, 8), (8, 8), (8, 10)]
    assert all(c.kernel_size == (1, 1) and c.bias is None for c in convolutions)
    assert not head[-1].affine and head[1].affine
    assert kinds(Projector(6, output_norm=False)) == [*inner, *inner, "Conv2d"]


def test_the_predictor_is_two_convolutions_with_a_bottleneck():
    head = Predictor(16)
    assert kinds(head) == ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d"]
    assert (head.conv1.out_channels, head.conv2.out_channels) == (4, 16)
    assert head.conv1.bias is None and head.conv2.bias is not None
    wide = Predictor(16, 16, output_bias=False)
    assert wide.conv1.out_channels == 16 and wide.conv2.bias is None
    assert Predictor(2).conv1.out_channels == 1


@pytest.mark.parametrize("shape", [(2, 6, 3, 5), (1, 6, 1, 2), (2, 6, 1, 1)])
def test_shapes_and_gradients(shape):
    features = torch.randn(shape, requires_grad=True)
    projector = Projector(6, 7, 8)
    z = projector(features)
    p = Predictor(8)(z)
    assert z.shape == p.shape == (shape[0], 8, *shape[2:])
    (p * torch.randn_like(p)).sum().backward()
    assert features.grad.any()
    assert all(parameter.grad is not None for parameter in projector.parameters())


def test_the_projection_is_normalised_while_training():
    z = Projector(6)(torch.randn(4, 6, 5, 5) * 10 + 3)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.var((0, 2, 3)), torch.ones(6), atol=0.05, rtol=0)


def test_every_location_is_treated_alike():
    head = nn.Sequential(Projector(4), Predictor(4)).eval()
    features = torch.randn(2, 4, 3, 3)
    assert torch.allclose(head(features.flip(2, 3)), head(features).flip(2, 3), atol=1e-6)


@pytest.mark.parametrize("head", [Projector(6), Predictor(6)], ids=["projector", "predictor"])
@pytest.mark.parametrize("shape", [(1, 6, 1, 1), (0, 6, 4, 4)])
def test_a_single_vector_cannot_be_trained_on_but_can_be_inferred(head, shape):
    head.train()
    with pytest.raises(ValueError, match=r"fewer than two vectors.*larger batches.*eval\(\)"):
        head(torch.zeros(shape))
    assert head.eval()(torch.zeros(shape)).shape == shape


@pytest.mark.parametrize("shape", [(2, 5, 3, 3), (6, 3, 3)])
def test_features_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"Projector: features have shape .*\[B, 6, H, W\]"):
        Projector(6)(torch.zeros(shape))


# Collapse ------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [2, 64])
def test_the_spread_is_1_for_directions_spread_evenly(channels):
    spread = std_of_normalised(torch.randn(16, channels, 16, 16))
    assert spread.shape == () and spread.item() == pytest.approx(1, abs=0.01)


def test_the_spread_is_0_for_one_direction_whatever_the_lengths():
    lengths = torch.rand(4, 1, 3, 3) + 0.1
    z = torch.randn(1, 8, 1, 1) * lengths
    assert std_of_normalised(z).item() == pytest.approx(0, abs=1e-6)


def test_the_spread_is_the_definition():
    z = torch.randn(3, 5, 2, 2, dtype=torch.float64) + torch.arange(5).view(5, 1, 1)
    unit = (z / z.norm(dim=1, keepdim=True)).transpose(0, 1).flatten(1)
    variance = unit.square().mean(1) - unit.mean(1).square()
    expected = variance.sqrt().mean() * 5**0.5
    torch.testing.assert_close(std_of_normalised(z), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_vectors_in_16_bits_have_a_direction(dtype):
    z = (torch.randn(16, 8, 8, 8) * 1e-4).to(dtype)
    spread = std_of_normalised(z)
    assert spread.dtype == torch.float32 and spread.item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_vectors_without_direction_or_no_vectors_make_no_nan(dtype):
    assert std_of_normalised(torch.zeros(2, 3, 4, 4, dtype=dtype)) == 0
    assert std_of_normalised(torch.zeros(0, 3, 4, 4, dtype=dtype)) == 0
    assert std_of_normalised(torch.ones(1, 3, 1, 1, dtype=dtype)) == 0


def test_the_spread_keeps_no_graph():
    assert not std_of_normalised(torch.randn(2, 3, 4, 4, requires_grad=True)).requires_grad


def test_the_spread_of_something_else_is_refused():
    with pytest.raises(ValueError, match=r"shape \[2, 3\], expected \[B, C, H, W\]"):
        std_of_normalised(torch.zeros(2, 3))
