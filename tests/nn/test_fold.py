"""Folding of BatchNorm on small networks: what is folded, what is left, and equal outputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from fastalign.nn.fold import fold_batch_norm


def lively(network: nn.Module) -> nn.Module:
    """In evaluation mode, with statistics and affine maps that change something."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.2, 3)
            if module.affine:
                nn.init.uniform_(module.weight, -1.5, 1.5)
                nn.init.uniform_(module.bias, -1, 1)
    return network.eval()


def runner(network: nn.Module, channels: int = 3) -> Callable[[], list[Tensor]]:
    x = torch.randn(2, channels, 8, 8)
    return lambda: [network(x)]


def fold(network: nn.Module, channels: int = 3) -> int:
    """Number of pairs folded, after a check that the network computes the same on other data."""
    x = torch.randn(3, channels, 7, 9)
    with torch.no_grad():
        before = network(x)
    count = fold_batch_norm(network, runner(network, channels))
    torch.testing.assert_close(network(x), before, rtol=1e-4, atol=1e-5)
    return count


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    "options",
    [{}, {"groups": 2}, {"stride": 2, "padding": 3}, {"dilation": 2, "padding_mode": "reflect"}],
    ids=["plain", "groups", "stride", "dilation"],
)
def test_every_kind_of_convolution(options, affine, bias):
    torch.manual_seed(0)
    convolution = nn.Conv2d(4, 6, 3, bias=bias, **{"padding": 1, **options})
    network = lively(nn.Sequential(convolution, nn.BatchNorm2d(6, affine=affine), nn.ReLU()))
    assert fold(network, 4) == 1
    assert type(network[1]) is nn.Identity and network[0].bias is not None


def test_a_chain_is_folded_in_full():
    network = lively(
        nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8)),
            nn.Conv2d(8, 4, 1),
            nn.BatchNorm2d(4),
        )
    )
    assert fold(network) == 3
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_the_activation_of_timms_batchnorm_stays():
    network = lively(nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4)))
    assert fold(network) == 1
    assert isinstance(network[1], nn.ReLU)


def test_folding_again_finds_nothing():
    network = lively(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    assert fold(network) == 1 and fold(network) == 0


class Network(nn.Module):
    """Convolutions and normalisations put together by a function."""

    def __init__(self, wiring: Callable[[Network, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.norm, self.other = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.wiring = wiring

    def forward(self, x: Tensor) -> Tensor:
        return self.wiring(self, x)


@pytest.mark.parametrize(
    "wiring",
    [
        lambda n, x: n.norm(x),
        lambda n, x: n.norm(n.first(x).relu()),
        lambda n, x: n.norm(n.first(x) + x),
        lambda n, x: n.norm(n.norm(n.first(x))),
        lambda n, x: n.norm(n.first(n.first(x))),
        lambda n, x: n.norm(n.first(x)) + n.norm(n.second(x)),
        lambda n, x: (lambda y: n.norm(y) + y)(n.first(x)),
        lambda n, x: (lambda y: y + n.norm(y))(n.first(x)),
        lambda n, x: (lambda y: n.norm(y) + n.second(y))(n.first(x)),
        lambda n, x: (lambda y: n.norm(y) + n.other(y))(n.first(x)),
    ],
    ids=[
        "no convolution",
        "something between",
        "a sum",
        "a normalisation twice",
        "a convolution twice",
        "one normalisation of two",
        "used beside",
        "used before",
        "convolved beside",
        "two normalisations of one",
    ],
)
def test_what_cannot_be_folded_is_left_alone(wiring):
    network = lively(Network(wiring))
    assert fold(network) == 0
    assert type(network.norm) is nn.BatchNorm2d


def test_one_branch_may_be_folded_and_the_other_not():
    network = lively(Network(lambda n, x: n.norm(n.first(x)) + n.other(n.second(x).relu())))
    assert fold(network) == 1
    assert type(network.norm) is nn.Identity and type(network.other) is nn.BatchNorm2d


def test_a_convolution_whose_own_output_is_asked_for_is_left_alone():
    first, second = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
    network = lively(nn.Sequential(first, second))
    x = torch.randn(1, 3, 4, 4)

    def both() -> list[Tensor]:
        y = first(x)
        return [y, network[1](y)]

    assert fold_batch_norm(network, both) == 0


def test_batchnorm_without_running_statistics_is_left_alone():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    assert fold(network.eval()) == 0


def test_tiny_variances_are_folded_accurately():
    network = lively(nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)))
    network[1].running_var.fill_(1e-6)
    network[1].running_mean.fill_(0.5)
    wide = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)).double().eval()
    wide.load_state_dict(network.state_dict())
    x = torch.randn(2, 3, 5, 5)
    fold_batch_norm(network, lambda: [network(x)])
    # Float32 weights of up to 300 times the size leave this much.
    torch.testing.assert_close(network(x).double(), wide(x.double()), rtol=1e-4, atol=1e-3)


def test_a_network_that_computes_something_else_afterwards_is_reported():
    """A use that no call of a function shows."""

    def wiring(network: Network, x: Tensor) -> Tensor:
        y = network.first(x)
        return network.norm(y) + y.data

    network = lively(Network(wiring))
    with pytest.raises(RuntimeError, match="used beside its BatchNorm; use it unfolded"):
        fold_batch_norm(network, runner(network))


def test_no_hooks_are_left_behind():
    network = lively(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)))
    fold(network)
    for module in network.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
