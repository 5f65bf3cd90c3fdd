"""Convolutions with what surrounds them: what is found, and that it computes the same."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from fastalign.nn import FeatureBackbone
from fastalign.nn.fused import clamp_of, running_stages, surroundings, to_tf32

SIZE = (64, 96)


def run(stages: list[nn.Module], x: Tensor) -> list[Tensor]:
    outputs = []
    for stage in stages:
        x = stage(x)
        outputs.append(x)
    return outputs


@pytest.fixture(scope="module")
def lite() -> FeatureBackbone:
    return FeatureBackbone(weights="embedded").eval().fuse()


def test_what_stands_around_convolutions_is_found(lite):
    found = surroundings(lite._stages, SIZE)
    # Every block widens, filters each channel and narrows; the first one does not widen.
    assert len(found.followers) == 11
    assert len(found.activations) == 1 + 1 + 2 * 10
    assert found.first == "0.conv_stem"
    assert found.activations["0.conv_stem"] == "0.bn1"
    assert found.followers[found.activations["1.blocks_2.0.conv_pw"]] == "1.blocks_2.0.conv_dw"


@pytest.mark.parametrize("precision", ["float32", "tf32", "float16"])
@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "test_resnet", "test_byobnet", "test_convnext"]
)
def test_features_are_the_same_without_the_kernels(name, precision):
    backbone = FeatureBackbone(name).eval().fuse()
    x = torch.rand(2, 3, *SIZE)
    wanted = backbone(x)
    state = copy.deepcopy(backbone.state_dict())
    around = surroundings(backbone._stages, SIZE)
    found = run(running_stages(backbone._stages, precision, around), x)
    limit = 0.02 if precision == "float16" else 1e-5
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).abs().max() <= limit * other.abs().max()
    for key, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, state[key])


def test_float32_weights_are_not_copied_and_activations_stay_as_they_were(lite):
    modules = [type(module) for module in lite.modules()]
    stages = running_stages(lite._stages, "float32", surroundings(lite._stages, SIZE))
    own = {parameter.data_ptr() for parameter in lite.parameters()}
    assert {p.data_ptr() for stage in stages for p in stage.parameters()} == own
    assert [type(module) for module in lite.modules()] == modules


class Shared(nn.Sequential):
    """The activation's output is used twice."""

    def forward(self, x: Tensor) -> Tensor:
        y = self[1](self[0](x))
        return self[2](y) + y


@pytest.mark.parametrize(
    "chain",
    [
        Shared(nn.Conv2d(8, 8, 1), nn.ReLU6(), nn.Conv2d(8, 8, 3, padding=1, groups=8)),
        # 0 is no value that may be padded with behind it.
        nn.Sequential(
            nn.Conv2d(8, 8, 1), nn.Hardtanh(0.5, 2), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        ),
        nn.Sequential(nn.Conv2d(8, 8, 1), nn.SiLU(), nn.Conv2d(8, 8, 5, padding=2, groups=8)),
        nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 1)),
    ],
    ids=["used twice", "without 0", "no clamp", "dense"],
)
def test_what_does_not_fit_is_left_alone(chain):
    stage = nn.Sequential(nn.Identity(), nn.Conv2d(3, 8, 1), chain)
    stages = nn.ModuleList([stage]).eval()
    around = surroundings(stages, (9, 7))
    x = torch.rand(2, 3, 9, 7)
    for precision in ("float32", "tf32"):
        (found,) = run(running_stages(stages, precision, around), x)
        torch.testing.assert_close(found, stage(x))


def test_the_bounds_of_activations():
    assert clamp_of(nn.ReLU()) == (0, math.inf)
    assert clamp_of(nn.ReLU6(inplace=True)) == (0, 6)
    assert clamp_of(nn.Hardtanh(-1, 2)) == (-1, 2)
    assert clamp_of(nn.SiLU()) is clamp_of(nn.Identity()) is None


def test_tf32_is_the_nearest_of_10_bits():
    given = torch.tensor([1.0, 1 + 2**-11, 1 + 2**-11 + 2**-20, -1 - 2**-12, 3e38])
    wanted = torch.tensor([1.0, 1 + 2**-10, 1 + 2**-10, -1.0, 3e38])
    found = to_tf32(given)
    torch.testing.assert_close(found[:4], wanted[:4], rtol=0, atol=0)
    assert abs(float(found[4]) / 3e38 - 1) < 2**-10
