"""Priors of the means (``MeanPrior``)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastalign.errors import ConfigError
from fastalign.nn import CountCalibration, DenseGaussian, LowRank, MeanPrior

C, SIZE = 5, (6, 7)
PLACES = SIZE[0] * SIZE[1]
NO_WINDOWS = torch.empty(0, 0, 0, C), torch.ones(0, 0, 0, dtype=torch.bool)


def photographs(number: int, means: Tensor, seed: int = 0) -> Tensor:
    """``[N,L,C]`` around ``means [L,C]`` or ``[C]``, of unit variance."""
    generator = torch.Generator().manual_seed(seed)
    return means + torch.randn(number, PLACES, C, generator=generator)


def learned(samples: Tensor, valid: Tensor | None = None) -> MeanPrior | None:
    everywhere = torch.ones(samples.shape[:2], dtype=torch.bool)
    valid = everywhere if valid is None else valid
    windows, around = (part[:, windows_of()] for part in (samples, valid))
    return MeanPrior.of_samples(samples, valid, windows, around)


def windows_of() -> Tensor:
    """Positions ``[M,9]`` of the windows that lie inside."""
    grid = torch.arange(PLACES).view(SIZE)
    return grid.unfold(0, 3, 1).unfold(1, 3, 1).reshape(-1, 9)


def test_what_has_no_places_is_drawn_to_the_mean_of_all():
    found = learned(photographs(8, torch.zeros(C)))
    # No two means differ, so the prior is worth more than any number of photographs.
    assert found.towards == "map" and found.strength > 50
    # Of the squared deviations from means of 6.4 photographs, 1 / 7.4 is the means'.
    assert abs(found.gain - 1 / 7.4) < 0.05


def test_what_changes_slowly_is_drawn_to_what_lies_around_it():
    y, x = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    slope = torch.linspace(-2, 2, C)
    found = learned(photographs(6, (x.flatten()[:, None] + 2 * y.flatten()[:, None]) * slope))
    assert found.towards == "neighbours" and found.radius == 1 and found.strength > 1


def test_the_strength_is_the_variance_within_over_that_between():
    generator = torch.Generator().manual_seed(3)
    places = torch.randn(PLACES, C, generator=generator) * 0.5
    found = [learned(photographs(10, places, seed)).strength for seed in range(8)]
    # 1 within and .25 between: James and Stein's 4 photographs.
    assert abs(sum(found) / 8 - 4) < 1


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
def test_the_unit_of_the_values_does_not_matter(scale):
    samples = photographs(8, torch.zeros(C))
    found, wanted = learned(scale * samples), learned(samples)
    assert (found.towards, found.strength) == (wanted.towards, pytest.approx(wanted.strength))
    assert found.gain == pytest.approx(wanted.gain)


def test_places_that_one_photograph_alone_has_shown_have_no_part_in_the_mean_of_all():
    samples = photographs(8, torch.zeros(C))
    valid = torch.ones(8, PLACES, dtype=torch.bool)
    valid[1:, :5] = valid[2:, 5:10] = False
    found = MeanPrior.of_samples(samples, valid, *NO_WINDOWS)
    samples[0, :5] += 1.0
    other = MeanPrior.of_samples(samples, valid, *NO_WINDOWS)
    torch.testing.assert_close(found.mean, other.mean)
    # Two have.
    samples[:2, 5:10] += 1.0
    other = MeanPrior.of_samples(samples, valid, *NO_WINDOWS)
    torch.testing.assert_close(found.mean + 5 / (PLACES - 5), other.mean)


def test_windows_are_drawn_as_the_whole_map_is():
    """What the curve reads of a prior towards neighbours, against the means of all."""
    prior = MeanPrior("neighbours", 3.0, radius=1)
    mean = photographs(1, torch.zeros(C))[0].double()
    wanted = prior.applied(mean, torch.full((PLACES,), 5), SIZE)
    windows = windows_of()
    found = prior.drawn(mean[windows], 5)
    torch.testing.assert_close(found, wanted[windows[:, 4]])


def test_places_that_have_nothing_in_common_are_left_alone():
    generator = torch.Generator().manual_seed(1)
    found = learned(photographs(10, 30 * torch.randn(PLACES, C, generator=generator)))
    assert found is None or found.strength < 0.02


def test_noise_that_neighbours_share_is_no_evidence_for_them():
    """As after upsampling, where each location is half of its neighbour."""
    generator = torch.Generator().manual_seed(2)
    rows = 10 * torch.randn(PLACES, C, generator=generator)
    samples = rows + torch.randn(9, 1, C, generator=generator).expand(9, PLACES, C)
    found = learned(samples)
    assert found is None or found.strength < 0.1


def test_what_is_not_valid_has_no_part_in_it():
    """Nor has a place that one photograph alone has shown any when that one is held out."""
    samples = photographs(8, torch.zeros(C))
    valid = torch.ones(8, PLACES, dtype=torch.bool)
    valid[:, 3] = valid[2:, 5] = False
    valid[1, 5] = False
    unseen = samples.clone()
    unseen[~valid] = torch.nan
    rest = [place for place in range(PLACES) if place != 3]
    found = MeanPrior.of_samples(unseen, valid, *NO_WINDOWS)
    expected = MeanPrior.of_samples(samples[:, rest], valid[:, rest], *NO_WINDOWS)
    assert found.strength == pytest.approx(expected.strength)
    assert found.gain == pytest.approx(expected.gain)
    assert torch.allclose(found.mean, expected.mean)


@pytest.mark.parametrize("towards", ["map", "neighbours"])
def test_means_against_the_definition(towards):
    options = {"map": {"mean": torch.full((C,), 2.0, dtype=torch.float64)}}
    prior = MeanPrior(towards, 3.0, **options.get(towards, {"radius": 1}))
    mean = photographs(1, torch.zeros(C))[0].double()
    count = torch.arange(PLACES) % 4
    found = prior.applied(mean, count, SIZE).view(*SIZE, C)
    means, counts = mean.view(*SIZE, C), count.view(SIZE)
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            if towards == "map":
                drawn = prior.mean
            else:
                near = [
                    means[i, j]
                    for i in range(max(0, y - 1), min(SIZE[0], y + 2))
                    for j in range(max(0, x - 1), min(SIZE[1], x + 2))
                    if (i, j) != (y, x) and counts[i, j] > 0
                ]
                drawn = torch.stack(near).mean(0)
            n = counts[y, x]
            torch.testing.assert_close(found[y, x], (n * means[y, x] + 3 * drawn) / (n + 3))


def test_a_density_scores_by_the_drawn_means_and_stays_so_when_extended():
    images = photographs(7, torch.zeros(C)).transpose(1, 2).reshape(7, C, *SIZE)
    prior = MeanPrior("map", 4.0, mean=torch.zeros(C, dtype=torch.float64))
    form = LowRank(3.0, 2)
    density = DenseGaussian(C, SIZE).update(images[:5])
    density.finalize(form=form, mean_prior=prior)
    torch.testing.assert_close(density.mean, images[:5].mean(0) * 5 / 9)
    more = DenseGaussian(C, SIZE).update(images[5:])
    joined = density.extended(more.sums, form=form, mean_strength=4.0)
    torch.testing.assert_close(joined.mean, images.mean(0) * 7 / 11)


def test_an_extended_packed_density_keeps_the_prior_of_its_means():
    images = photographs(9, torch.zeros(C)).transpose(1, 2).reshape(9, C, *SIZE)
    prior = MeanPrior("map", 4.0, mean=torch.zeros(C, dtype=torch.float64))
    density = DenseGaussian(C, SIZE).update(images[:7]).finalize(mean_prior=prior)
    joined = density.extended(DenseGaussian(C, SIZE).update(images[7:]).sums, mean_strength=4.0)
    torch.testing.assert_close(joined.mean, images.mean(0) * 9 / 13)


@pytest.mark.parametrize("form", [None, LowRank(3.0, 2)])
def test_the_curve_knows_of_it(form):
    """Means that are right from the first photograph on leave less to fall with their number."""
    samples = photographs(12, torch.zeros(C))
    prior = MeanPrior("map", 1e3, mean=torch.zeros(C, dtype=torch.float64))
    windows = samples[:, windows_of()]

    def fall(mean: MeanPrior | None) -> float:
        if form is None:
            distances = CountCalibration(samples, 1.0, 0, None, mean).distances
        else:
            distances = CountCalibration.of_windows(windows, form, 0, mean).distances
        return float(distances[0] / distances[-1])

    assert fall(prior) < fall(None)


def test_bad_numbers_are_named():
    for options, named in (
        ({"towards": "left", "strength": 1.0}, "left"),
        ({"towards": "map", "strength": -1.0, "mean": torch.zeros(C)}, "strength"),
        ({"towards": "map", "strength": 1.0}, "mean"),
        ({"towards": "neighbours", "strength": 1.0}, "radius"),
    ):
        with pytest.raises(ConfigError, match=named):
            MeanPrior(**options)
    with pytest.raises(ValueError, match="shape"):
        MeanPrior.of_samples(torch.zeros(3, 4), torch.ones(3, dtype=torch.bool), *NO_WINDOWS)
    assert MeanPrior.of_samples(
        torch.zeros(3, 4, C), torch.ones(3, 4, dtype=torch.bool), *NO_WINDOWS
    ) is None  # fmt: skip
