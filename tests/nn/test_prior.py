"""The prior of covariances: its posterior by loops, and the strength that samples tell."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fastalign.errors import ConfigError
from fastalign.nn import CountCalibration, CovariancePrior, DenseGaussian

SIZE = (3, 5)
CHANNELS = 4


def features(images: int, channels: int = CHANNELS) -> Tensor:
    """Correlated features [N,C,H,W] with another mean and scale at each location."""
    values = torch.randn(images, channels, *SIZE)
    scale = 0.5 + torch.rand(SIZE)
    return (values + 0.5 * values.roll(1, 1)) * scale + 3 * torch.randn(channels, *SIZE)


def a_prior(strength: float = 7.0, channels: int = CHANNELS) -> CovariancePrior:
    root = torch.randn(channels, channels).double()
    return CovariancePrior(root @ root.T + torch.eye(channels), strength, 0.2)


def by_loops(values: Tensor, valid: Tensor, prior: CovariancePrior, x: Tensor) -> Tensor:
    """Distances of x [C,H,W] from the definition, one location at a time."""
    found = torch.zeros(SIZE, dtype=torch.float64)
    for row in range(SIZE[0]):
        for column in range(SIZE[1]):
            own = values[valid[:, row, column], :, row, column].double()
            mean = own.mean(0)
            scatter = (own - mean).T @ (own - mean)
            covariance = prior.strength * prior.covariance + scatter
            covariance = covariance / (prior.strength + len(own) - 1)
            covariance = covariance + prior.shrinkage * torch.eye(own.shape[1])
            deviation = x[:, row, column].double() - mean
            found[row, column] = (deviation @ torch.linalg.solve(covariance, deviation)).sqrt()
    return found


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16])
def test_covariances_are_the_posterior_mean(backend, keep, storage, monkeypatch):
    """Locations of one photograph too, whose covariance is the prior's alone."""
    monkeypatch.setenv("FASTALIGN_BACKEND", backend)
    values, prior = features(6), a_prior()
    valid = torch.rand(6, *SIZE) > 0.3
    valid[0] = True
    valid[1:, 0, 0] = False
    density = DenseGaussian(CHANNELS, SIZE, storage=storage).update(values, valid)
    density.finalize(keep=keep, prior=prior)
    x = features(1)[0]
    exact = storage == torch.float32
    torch.testing.assert_close(
        density(x[None])[0].double(),
        by_loops(values, valid, prior, x),
        rtol=1e-5 if exact else 2**-7,
        atol=1e-5,
    )


def test_sums_that_are_kept_go_on_without_the_prior():
    values = features(6)
    density = DenseGaussian(CHANNELS, SIZE).update(values)
    density.finalize(keep=True, prior=a_prior())
    density.finalize(keep=True)
    plain = DenseGaussian(CHANNELS, SIZE).update(values).finalize()
    assert torch.equal(density.whitener, plain.whitener)


def test_a_singular_prior_leaves_the_sums_as_they_are():
    values = features(2)
    density = DenseGaussian(CHANNELS, SIZE, shrinkage=0.01).update(values)
    nothing = CovariancePrior(torch.zeros(CHANNELS, CHANNELS).double(), 3.0, 0.0)
    with pytest.raises(ConfigError, match="not positive definite"):
        density.finalize(prior=nothing)
    again = DenseGaussian(CHANNELS, SIZE, shrinkage=0.01).update(values).finalize()
    assert torch.equal(density.finalize().whitener, again.whitener)


def test_a_prior_of_other_channels_is_refused():
    density = DenseGaussian(CHANNELS, SIZE).update(features(3))
    with pytest.raises(ValueError, match="a prior of 5 channels for features of 4"):
        density.finalize(prior=a_prior(channels=5))


# What samples tell ---------------------------------------------------------------------------


def drawn(strength: int, images: int, places: int = 48) -> Tensor:
    """Samples [N,L,3] of locations whose covariances are drawn from the inverse Wishart
    distribution that the posterior mean belongs to."""
    common = torch.tensor([[2.0, 0.8, 0.0], [0.8, 1.0, 0.3], [0.0, 0.3, 0.5]]).double()
    root = torch.linalg.cholesky(torch.linalg.inv(strength * common))
    draws = root @ torch.randn(places, 3, strength + 4).double()
    covariances = torch.linalg.inv(draws @ draws.mT)
    noise = torch.randn(images, places, 3, 1).double()
    return (torch.linalg.cholesky(covariances) @ noise)[..., 0] + 5 * torch.randn(places, 3)


@pytest.mark.parametrize("strength", [2, 20])
def test_the_strength_is_that_of_the_distribution(strength):
    prior = CovariancePrior.of_samples(drawn(strength, 40), shrinkage=0.0)
    assert prior is not None
    assert strength / 4 <= prior.strength <= 4 * strength
    assert prior.likelihood[prior.strength] == min(prior.likelihood.values())


def test_where_all_locations_are_alike_the_prior_is_strong():
    alike = torch.randn(20, 32, CHANNELS)
    prior = CovariancePrior.of_samples(alike, shrinkage=0.0)
    assert prior is not None
    assert prior.strength >= 200


def test_the_covariance_is_pooled_over_locations_and_skips_what_is_not_valid():
    samples = features(8).flatten(2).transpose(1, 2)
    valid = torch.rand(samples.shape[:2]) > 0.4
    valid[:2] = True
    scatter, freedom = torch.zeros(CHANNELS, CHANNELS).double(), 0
    for place in range(samples.shape[1]):
        own = samples[valid[:, place], place].double()
        scatter += torch.cov(own.T) * (len(own) - 1)
        freedom += len(own) - 1
    spoiled = torch.where(valid.unsqueeze(-1), samples, torch.nan)
    prior = CovariancePrior.of_samples(spoiled, valid)
    assert prior is not None
    torch.testing.assert_close(prior.covariance, scatter / freedom)
    mean = float(prior.covariance.diagonal().mean())
    assert prior.shrinkage == pytest.approx(0.15 * mean)


def test_a_few_photographs_have_a_usual_strength_and_one_has_no_prior():
    samples = features(2).flatten(2).transpose(1, 2)
    prior = CovariancePrior.of_samples(samples)
    assert prior is not None and prior.strength == 20 and not prior.likelihood
    assert CovariancePrior.of_samples(samples[:1]) is None
    assert CovariancePrior.of_samples(samples[:1].expand(6, -1, -1)) is None
    assert CovariancePrior.of_samples(samples, strength=3).strength == 3  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: CovariancePrior(torch.ones(2, 3), 1.0, 0.1), ValueError),
        (lambda: CovariancePrior(torch.full((2, 2), math.nan), 1.0, 0.1), ValueError),
        (lambda: CovariancePrior(torch.eye(2), 0.0, 0.1), ConfigError),
        (lambda: CovariancePrior(torch.eye(2), math.nan, 0.1), ConfigError),
        (lambda: CovariancePrior(torch.eye(2), 1.0, -0.1), ConfigError),
        (lambda: CovariancePrior.of_samples(torch.ones(3, 4)), ValueError),
        (lambda: CovariancePrior.of_samples(torch.ones(3, 4, 5, device="meta")), ValueError),
        (lambda: CovariancePrior.of_samples(torch.ones(3, 4, 5).int()), TypeError),
    ],
)
def test_what_makes_no_sense_is_refused(call, error):
    with pytest.raises(error, match="CovariancePrior"):
        call()


def test_wide_features_are_judged_at_fewer_places_in_bounded_memory():
    """The same answer to the order of magnitude, whatever the number of places."""
    prior = CovariancePrior.of_samples(torch.randn(6, 256, 300))
    assert prior is not None
    assert prior.strength >= 50


def test_the_calibration_knows_the_prior():
    """With a prior that says everything, distances hardly depend on the number of images."""
    samples = torch.randn(24, 8, CHANNELS).double()
    strong = CovariancePrior(torch.eye(CHANNELS).double(), 1e5, 0.0)
    with_prior = CountCalibration(samples, 0.01, prior=strong)
    without = CountCalibration(samples, 0.01)
    few = torch.tensor(3)
    assert float(with_prior.factor(torch.tensor([3, 23]))[0]) > 0.8
    assert float(without.ratio(torch.tensor(23), few)) < 0.3
