"""The convolutions of a network on a GPU: features, precisions, layouts, sizes and what is NaN."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from fastalign.nn import FeatureBackbone
from fastalign.nn.state import own_state

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

# Some thirty roundings in a row, of 24, 11, 8 and 11 bits.
LIMITS = {"float32": 1e-5, "tf32": 0.01, "bfloat16": 0.1, "float16": 0.01}


def exact(backbone: FeatureBackbone, x: Tensor) -> list[Tensor]:
    """In float64 on the CPU."""
    found = []
    x = x.double().cpu()
    for stage in copy.deepcopy(backbone).cpu().double().stages():
        x = stage(x)
        found.append(x)
    return found


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "test_resnet", "test_byobnet", "mobilenetv2_050"]
)
def test_features_are_those_of_float64(name, precision):
    backbone = FeatureBackbone(name).eval().fuse()
    generator = torch.Generator().manual_seed(0)
    sizes = ((1, 256, 256), (3, 65, 98), (40, 128, 128))
    for batch, height, width in sizes:
        x = torch.rand(batch, 3, height, width, generator=generator)
        wanted = exact(backbone.cpu(), x[:2])
        backbone.cuda().run_in(precision)
        assert backbone._runs
        with torch.inference_mode(), own_state():
            for given in (x.cuda(), x.cuda().contiguous(memory_format=torch.channels_last)):
                for one, other in zip(backbone(given), wanted, strict=True):
                    error = (one[:2].double().cpu() - other).abs().max() / other.abs().max()
                    assert error <= LIMITS[precision], (batch, height, width, float(error))


@pytest.mark.parametrize("precision", LIMITS)
def test_an_image_with_nan_has_nan_and_the_others_have_not(precision):
    backbone = FeatureBackbone(weights="embedded").eval().fuse().cuda().run_in(precision)
    x = torch.rand(3, 3, 64, 64, device="cuda")
    with torch.inference_mode(), own_state():
        wanted = backbone(x)
        x[1, 0, 30, 30] = torch.nan
        found = backbone(x)
    for one, other in zip(found, wanted, strict=True):
        assert one[1].isnan().any()
        assert torch.equal(one[[0, 2]], other[[0, 2]])


def test_gradients_are_those_of_a_cpu():
    backbone = FeatureBackbone("test_resnet").eval().fuse()
    x = torch.rand(2, 3, 64, 64)
    grads = []
    for device in ("cpu", "cuda"):
        given = x.to(device, copy=True).requires_grad_()
        with own_state():
            backbone.to(device)(given)[-1].square().sum().backward()
        grads.append(given.grad.cpu())
    torch.testing.assert_close(
        grads[1], grads[0], rtol=1e-3, atol=1e-4 * float(grads[0].abs().max())
    )
