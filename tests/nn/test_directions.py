"""Whitening by what all locations have in common: its definition, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastalign.errors import ConfigError
from fastalign.nn import Whitening
from fastalign.nn.directions import RIDGE, rotation


def samples(images: int = 9, places: int = 5, channels: int = 6) -> Tensor:
    """Correlated channels ``[M,L,C]`` of very different size, around another mean at each place."""
    values = torch.randn(images, places, channels, dtype=torch.float64)
    values = (values + 0.8 * values.roll(1, 2)) * 2.0 ** torch.arange(channels)
    return values + 10 * torch.randn(places, channels, dtype=torch.float64)


def pooled_by_loops(values: Tensor, valid: Tensor) -> Tensor:
    total, freedom = torch.zeros(values.shape[2], values.shape[2], dtype=torch.float64), 0
    for place in range(values.shape[1]):
        own = values[valid[:, place], place]
        if len(own) > 1:
            total += (own - own.mean(0)).T @ (own - own.mean(0))
            freedom += len(own) - 1
    return total / freedom


def test_all_directions_vary_alike():
    """Places that no image or one shows, and values without meaning, included."""
    values = samples()
    valid = torch.rand(9, 5) > 0.3
    valid[:, 0], valid[1:, 1], valid[:, 2] = False, False, True
    found = Whitening.of_samples(torch.where(valid[..., None], values, torch.nan), valid, 6)
    covariance = pooled_by_loops(values, valid)
    ridge = RIDGE * float(covariance.diagonal().mean())
    assert found.ridge == pytest.approx(ridge, rel=1e-9)
    identity = torch.eye(6, dtype=torch.float64)
    directions = found.directions.double()
    varied = directions @ (covariance + ridge * identity) @ directions.T
    torch.testing.assert_close(varied, identity, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.floor, ridge * directions @ directions.T, rtol=0, atol=1e-5)


@pytest.mark.parametrize("number", [1, 4, 6])
def test_fewer_directions_are_uncorrelated_and_the_same_for_everyone(number):
    values = samples()
    found, again = (Whitening.of_samples(values, None, number) for _ in range(2))
    assert torch.equal(found.directions, again.directions)
    covariance = pooled_by_loops(values, torch.ones(9, 5, dtype=torch.bool))
    covariance += found.ridge * torch.eye(6)
    directions = found.directions.double()
    varied = directions @ covariance @ directions.T
    torch.testing.assert_close(varied, torch.eye(number).double(), rtol=0, atol=1e-5)


def test_distances_are_those_of_all_directions_in_expectation():
    """Of differences that lie in few channels as of such that lie in all."""
    channels, number = 160, 100
    rows = rotation(number, channels)
    torch.testing.assert_close(rows @ rows.T, torch.eye(number).double(), rtol=0, atol=1e-12)
    for differences in (torch.eye(channels), torch.randn(200, channels)):
        kept = (differences.double() @ rows.T).norm(dim=1) / differences.norm(dim=1)
        share = (number / channels) ** 0.5
        assert float(kept.square().mean().sqrt()) == pytest.approx(share, rel=0.02)
        assert 0.75 * share < float(kept.min()) and float(kept.max()) < 1.25 * share


def test_samples_without_variation_have_directions():
    found = Whitening.of_samples(torch.ones(4, 3, 5), None, 3)
    assert found.ridge == 0.01 and bool(found.directions.isfinite().all())
    torch.testing.assert_close(found.floor, torch.eye(3).double(), rtol=0, atol=1e-9)


def test_what_makes_no_sense_is_named():
    with pytest.raises(ValueError, match=r"samples have shape \[4, 5\], expected \[M, L, C\]"):
        Whitening.of_samples(torch.ones(4, 5), None, 3)
    with pytest.raises(ConfigError, match="number 7"):
        Whitening.of_samples(samples(), None, 7)
    spoiled = samples()
    spoiled[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN, infinite or too large to square"):
        Whitening.of_samples(spoiled, None, 3)
