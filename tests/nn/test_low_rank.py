"""Densities as an identity and a few directions (``LowRank``)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastalign.errors import ConfigError
from fastalign.nn import DenseGaussian, LowRank
from fastalign.nn.low_rank import more_low_rank, rows_of

C, SIZE = 6, (4, 5)


def features(number: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(C, C, generator=generator)
    return torch.einsum("dc,ncyx->ndyx", mixed, torch.randn(number, C, *SIZE, generator=generator))


def seen(number: int) -> Tensor:
    """Fewer and fewer to the right, and one image in a corner."""
    valid = torch.ones(number, *SIZE, dtype=torch.bool)
    for column in range(SIZE[1]):
        valid[:column, :, column] = False
    valid[1:, 0, 0] = False
    return valid


def fitted(form: LowRank, images: Tensor, valid: Tensor | None = None) -> DenseGaussian:
    return DenseGaussian(C, SIZE).update(images, valid).finalize(form=form)


def expected(form: LowRank, images: Tensor, valid: Tensor, others: Tensor) -> Tensor:
    """By the definition, in float64, a location at a time."""
    height, width = SIZE
    found = torch.empty(len(others), height, width, dtype=torch.float64)
    scatter = torch.zeros(height, width, C, C, dtype=torch.float64)
    mean = torch.zeros(height, width, C, dtype=torch.float64)
    free = torch.zeros(height, width, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            own = images[valid[:, y, x], :, y, x].double()
            mean[y, x] = own.mean(0)
            scatter[y, x] = (own - mean[y, x]).T @ (own - mean[y, x])
            free[y, x] = max(0, len(own) - 1)
    for y in range(height):
        for x in range(width):
            near = (
                slice(max(0, y - form.radius), y + form.radius + 1),
                slice(max(0, x - form.radius), x + form.radius + 1),
            )
            pooled = scatter[near].sum((0, 1)) / free[near].sum().clamp_min(1) * free[y, x]
            values, vectors = torch.linalg.eigh(pooled)
            top = vectors[:, C - form.rank :]
            added = top @ torch.diag(values[C - form.rank :]) @ top.T
            total = form.strength + free[y, x]
            covariance = (form.strength * torch.eye(C) + added) / total
            unit = form.strength / total
            away = (others[:, :, y, x].double() - mean[y, x]).T
            solved = torch.linalg.solve(covariance, away)
            found[:, y, x] = (unit * (away * solved).sum(0)).sqrt()
    return found


@pytest.mark.parametrize("radius", [0, 1, 3])
@pytest.mark.parametrize("rank", [0, 2, C])
def test_distances_are_those_of_the_posterior_in_units_of_its_identity(rank, radius):
    form = LowRank(3.0, rank, radius)
    images, others, valid = features(9), features(4, seed=1), seen(9)
    density = fitted(form, images, valid)
    assert density.rank == rank and density.whitener.shape == (20, rank, C)
    torch.testing.assert_close(
        density(others).double(), expected(form, images, valid, others), rtol=1e-4, atol=1e-4
    )


def test_few_of_many_directions_are_found_as_well():
    """By subspace iteration: what is left of each location's own photographs is the same."""
    generator = torch.Generator().manual_seed(0)
    deviations = torch.randn(3, 40, 90, generator=generator) * torch.logspace(1, -1, 90)
    scatter = deviations.mT @ deviations
    rows = rows_of(scatter, LowRank(3.0, 8))
    values, vectors = torch.linalg.eigh(scatter.double())
    shrunk = (3 / (3 + values[:, -8:])).sqrt()
    exact = vectors[:, :, -8:] * (1 - shrunk).sqrt()[:, None, :]
    found, wanted = rows.mT.double() @ rows.double(), exact @ exact.mT
    # The direction that is nearly as strong as the first that is left out is the loosest.
    assert float((found - wanted).norm() / wanted.norm()) < 0.03
    for matrix in (torch.zeros(2, 90, 90), torch.eye(90).expand(2, 90, 90)):
        assert bool(rows_of(matrix, LowRank(3.0, 8)).isfinite().all())


def test_more_images_are_as_if_they_had_been_there():
    form = LowRank(2.0, C, 1)
    images, others = features(11), features(4, seed=1)
    before, every = fitted(form, images[:7]), fitted(form, images)
    sums = DenseGaussian(C, SIZE).update(images[7:]).sums
    assert sums is not None
    after = before.extended(sums, form=form, min_count=1)
    torch.testing.assert_close(after.mean, every.mean, rtol=1e-4, atol=1e-5)
    assert torch.equal(after.count, every.count)
    torch.testing.assert_close(after(others), every(others), rtol=1e-3, atol=1e-3)
    with pytest.raises(ConfigError, match="takes form where what is stored is of low rank"):
        before.extended(sums)


def test_what_was_stored_of_few_weighs_as_many_as_the_location_has_of_its_window():
    """One direction everywhere, and new photographs that add nothing to it, against the sums."""
    form = LowRank(2.0, 1, 1)
    counts = torch.arange(1, SIZE[0] * SIZE[1] + 1)
    sums = DenseGaussian(C, SIZE).update(torch.zeros(3, C, *SIZE)).sums
    rows = torch.zeros(len(counts), 1, C)
    rows[:, 0, 2] = 0.6**0.5
    gain = torch.zeros(len(counts), C)
    found = more_low_rank(rows, counts, gain, sums, SIZE, form)[:, 0, 2].square()

    def window(values: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(values.view(1, 1, *SIZE), (1, 1, 1, 1))
        return torch.nn.functional.avg_pool2d(padded, 3, 1, divisor_override=1).flatten()

    before, after = counts - 1.0, counts + 2.0
    share = window(before) / before.clamp_min(1) * after / window(after)
    added = 2 * ((1 - 0.6) ** -2 - 1) * share
    torch.testing.assert_close(found, 1 - (2 / (2 + added)).sqrt())


def test_it_comes_back_with_its_support():
    valid = seen(9)
    density = DenseGaussian(C, SIZE, storage=torch.float16).update(features(9), valid)
    density.finalize(form=LowRank(3.0, 2), min_count=7)
    assert not bool(density.support.all()) and density.whitener.dtype == torch.float16
    other = DenseGaussian(C, SIZE, storage=torch.float16)
    other.update(features(5)).finalize()
    other.load_state_dict(density.state_dict())
    assert torch.equal(other.support, density.support)
    images = features(3, seed=2)
    assert torch.equal(other(images), density(images))
    assert bool((density(images)[:, ~density.support] == 0).all())
    # And a packed one takes its place again.
    packed = DenseGaussian(C, SIZE, storage=torch.float16).update(features(9)).finalize()
    other.load_state_dict(packed.state_dict())
    assert other.rank is None and torch.equal(other(images), packed(images))


def test_numbers_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="strength"):
        LowRank(-1.0, 3)
    with pytest.raises(ConfigError, match="strength 0"):
        LowRank(0.0, 3)
    with pytest.raises(ConfigError, match="rank"):
        LowRank(1.0, -1)
    with pytest.raises(ConfigError, match="radius"):
        LowRank(1.0, 1, -1)
