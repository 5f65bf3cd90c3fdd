"""The low-rank form of ``mahalanobis`` against the covariances that it stands for."""

from __future__ import annotations

import pytest
import torch
from op_support.inputs import Inputs
from torch import Tensor

from fastalign import ops

CHANNELS, RANK, SIDE = 12, 5, 3


def _fit(noise: float, spread: float) -> tuple[Tensor, Tensor]:
    """Covariances ``c I`` plus rank R with eigenvalues up to ``c * spread``, and the rows V."""
    generator = torch.Generator().manual_seed(3)
    basis = torch.randn(SIDE * SIDE, CHANNELS, CHANNELS, generator=generator, dtype=torch.float64)
    axes = torch.linalg.qr(basis).Q[:, :, :RANK]  # columns u_j
    large = noise * torch.logspace(0, 1, RANK, base=spread, dtype=torch.float64)
    covariance = noise * torch.eye(CHANNELS, dtype=torch.float64)
    covariance = covariance + (axes * (large - noise)) @ axes.mT
    return covariance, (axes * (1 - (noise / large).sqrt()).sqrt()).mT


def _length(covariance: Tensor, deviation: Tensor) -> Tensor:
    """``|S^-1/2 d|`` by the eigenvalues of S."""
    values, vectors = torch.linalg.eigh(covariance)
    return ((vectors.mT @ deviation.unsqueeze(2)).squeeze(2) / values.sqrt()).norm(dim=1)


@pytest.mark.parametrize("spread", [4.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_distance_of_the_covariance(spread, dtype, backend):
    noise = 0.03
    covariance, rows = _fit(noise, spread)
    # The eigenvalues of the covariance are known to a fraction of the largest.
    accurate = max(64 * torch.finfo(dtype).eps, 4 * spread * torch.finfo(torch.float64).eps)
    i = Inputs(dtype, backend.device, "channels_last", (4, CHANNELS, SIDE, SIDE))
    x, mean = i.features(), i.mean()
    rows = rows.to(backend.device, dtype)
    backend.require("mahalanobis", x, mean, rows)
    found = ops.mahalanobis(x, mean, rows, backend=backend.name) * noise**-0.5
    for image, distances in zip(x.cpu().double(), found.cpu().double(), strict=True):
        deviation = (image - mean.cpu().double()).flatten(1).T
        wanted = _length(covariance, deviation)
        torch.testing.assert_close(distances.flatten(), wanted, rtol=accurate, atol=0)


def test_nothing_cancels_along_a_direction_of_large_variance(backend):
    """``|d|^2 - |V d|^2`` would leave no digit here: the square is 1e-6 of what it is taken of."""
    noise, spread = 1.0, 1e6
    covariance, rows = _fit(noise, spread)
    largest = torch.linalg.eigh(covariance).eigenvectors[:, :, -1]  # [H*W,C]
    x = largest.T.reshape(1, CHANNELS, SIDE, SIDE).float().to(backend.device)
    mean, rows = torch.zeros_like(x[0]), rows.float().to(backend.device)
    backend.require("mahalanobis", x, mean, rows)
    found = ops.mahalanobis(x, mean, rows, backend=backend.name)
    torch.testing.assert_close(found.cpu(), torch.full((1, SIDE, SIDE), 1e-3), rtol=1e-3, atol=0)


def test_both_forms_of_one_covariance_agree(backend):
    noise = 0.5
    covariance, rows = _fit(noise, 20.0)
    factor = torch.linalg.inv(torch.linalg.cholesky(covariance))
    row, column = torch.tril_indices(CHANNELS, CHANNELS)
    packed = factor[:, row, column].float().to(backend.device)
    i = Inputs(torch.float32, backend.device, shape=(2, CHANNELS, SIDE, SIDE))
    x, mean = i.features(), i.mean()
    backend.require("mahalanobis", x, mean, packed)
    low = ops.mahalanobis(x, mean, rows.float().to(backend.device), backend=backend.name)
    wanted = ops.mahalanobis(x, mean, packed, backend=backend.name)
    torch.testing.assert_close(low * noise**-0.5, wanted)


def test_without_rows_it_is_the_distance_to_the_mean(backend):
    i = Inputs(torch.float32, backend.device)
    x, mean, rows = i.features(), i.mean(), i.low_rank(0)
    backend.require("mahalanobis", x, mean, rows)
    found = ops.mahalanobis(x, mean, rows, backend=backend.name)
    torch.testing.assert_close(found, (x - mean).norm(dim=1))
