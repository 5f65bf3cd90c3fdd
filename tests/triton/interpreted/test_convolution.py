"""Convolutions of a network in channels_last, against torch's own in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastalign.kernels import convolution
from fastalign.nn.fused import to_tf32

FREE = (-math.inf, math.inf)
# The interpreter has no products of bfloat16.
ROUNDED = {torch.float32: 1e-6, torch.float16: 2e-3}


def maps(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)


def assert_near(found: Tensor, wanted: Tensor, share: float) -> None:
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found.double() - wanted).abs().max() <= share * wanted.abs().max()


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize(
    ("shape", "outputs"), [((1, 8, 3, 5), 24), ((3, 40, 9, 7), 8), ((2, 72, 4, 4), 136)]
)
def test_pointwise(shape, outputs, dtype):
    x = maps(*shape, dtype=dtype)
    weight, bias = torch.randn(outputs, shape[1]).to(dtype), torch.randn(outputs)
    wanted = F.conv2d(x.double(), weight.double()[:, :, None, None], bias.double())
    for clamp in (FREE, (0.0, 6.0)):
        found = convolution.pointwise(x, weight, bias, clamp)
        assert_near(found, wanted.clamp(*clamp), ROUNDED[dtype])


def test_pointwise_in_tf32_rounds_to_nearest():
    x, weight = maps(2, 16, 5, 3), torch.randn(8, 16)
    bias = torch.zeros(8)
    found = convolution.pointwise(x, to_tf32(weight), bias, FREE, tf32=True)
    wanted = F.conv2d(x.double(), weight.double()[:, :, None, None])
    assert 1e-6 < (found - wanted).abs().max() / wanted.abs().max() < 2e-3


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("taps", [3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_depthwise(taps, stride, dtype):
    x = 4 * maps(1, 40, 5, 17, dtype=dtype)
    weight, bias = torch.randn(40, 1, taps, taps), torch.randn(40)
    own = weight[:, 0].permute(1, 2, 0).contiguous()
    share = {**ROUNDED, torch.bfloat16: 1e-2}[dtype]
    # Zeros all around, and as TensorFlow puts them, more of them behind than before.
    for top, left, padded in ((2, 2, (2, 2, 2, 2)), (0, 1, (1, 2, 0, 1))):
        for clamps in ((FREE, FREE), ((0.0, 6.0), (-1.0, 2.0))):
            inside = F.pad(x.double().clamp(*clamps[1]), padded)
            wanted = F.conv2d(inside, weight.double(), bias.double(), stride, groups=40)
            size = tuple(wanted.shape[2:])
            found = convolution.depthwise(x, own, bias, stride, (top, left), size, *clamps)
            assert_near(found, wanted.clamp(*clamps[0]), share)


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_images(order, dtype):
    x = torch.rand(2, 3, 13, 70).contiguous(memory_format=order)
    weight, bias = torch.randn(24, 3, 3, 3).to(dtype), torch.randn(24)
    mean, std = torch.rand(3), 0.5 + torch.rand(3)
    normal = ((x - mean[:, None, None]) / std[:, None, None]).double()
    wanted = F.conv2d(F.pad(normal, (0, 1, 1, 1)), weight.double(), bias.double(), 2)
    size = tuple(wanted.shape[2:])
    found = convolution.of_images(x, weight, bias, mean, std, 2, (1, 0), size, (0.0, 6.0))
    assert found.dtype == dtype
    assert_near(found, wanted.clamp(0, 6), ROUNDED[dtype])


def test_nan_passes_every_clamp():
    clamp = (0.0, 6.0)
    x, weight = maps(1, 8, 4, 4), torch.randn(8, 8)
    x[0, 3, 1, 2] = torch.nan
    assert convolution.pointwise(x, weight, torch.zeros(8), clamp)[0, :, 1, 2].isnan().all()
    rounded = convolution.pointwise(x, to_tf32(weight), torch.zeros(8), clamp, tf32=True)
    assert rounded[0, :, 1, 2].isnan().all() and rounded.isnan().sum() == 8
    taps = torch.ones(3, 3, 8)
    found = convolution.depthwise(x, taps, torch.zeros(8), 1, (1, 1), (4, 4), clamp, clamp)
    assert found.isnan().sum() == found[0, 3, 0:3, 1:4].isnan().sum() == 9
