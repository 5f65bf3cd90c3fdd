"""The curve of distances over counts against the definition, one location at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fastalign.nn import CountCalibration, CovariancePrior, calibration


def samples(images: int, locations: int = 3, channels: int = 4) -> Tensor:
    """Correlated features [N,L,C] around another mean at each location."""
    values = torch.randn(images, locations, channels)
    return values + 0.5 * values.roll(1, 2) + torch.arange(locations).view(-1, 1) * 3.0


def mean_distance(given: Tensor, held_out: Tensor, shrinkage: float) -> float:
    """Mean Mahalanobis distance, by loops."""
    total, number = 0.0, 0
    for location in range(given.shape[1]):
        values = given[:, location].double()
        mean = values.mean(0)
        covariance = torch.cov(values.T) + shrinkage * torch.eye(values.shape[1]).double()
        inverse = torch.linalg.inv(covariance)
        for image in held_out[:, location].double():
            total += float(((image - mean) @ inverse @ (image - mean)).sqrt())
            number += 1
    return total / number


def test_the_distance_of_the_largest_subset_is_that_of_leaving_each_image_out():
    """With N - 1 images to fit to, enough subsets are drawn to hold out each image about once."""
    values = samples(8)
    curve = CountCalibration(values, 0.01)
    assert int(curve.counts[-1]) == 7
    each = [mean_distance(values[torch.arange(8) != i], values[i : i + 1], 0.01) for i in range(8)]
    assert min(each) <= float(curve.distances[-1]) <= max(each)
    assert float(curve.distances[-1]) == pytest.approx(sum(each) / 8, rel=0.35)


def test_the_curve_is_the_definition():
    """The same subsets, drawn by the same generator, computed by loops."""
    values = samples(12)
    curve = CountCalibration(values, 0.1, seed=3)
    generator = torch.Generator().manual_seed(3)
    expected = []
    for size in curve.counts.int().tolist():
        repeats = max(4, 12 // max(1, 12 - size))
        found = []
        for _ in range(repeats):
            order = torch.randperm(12, generator=generator)
            found.append(mean_distance(values[order[:size]], values[order[size:]], 0.1))
        expected.append(min([sum(found) / repeats, *expected[-1:]]))
    torch.testing.assert_close(curve.distances, torch.tensor(expected).double())


def test_the_curve_is_that_of_far_more_images():
    """What is measured on 40 images is what Gaussians of so many images really do."""
    channels = 6
    everything = samples(3000, 2, channels)
    curve = CountCalibration(everything[:60], 0.01)
    fresh = everything[1000:]
    for count in (3, 8, 20):
        found = [
            mean_distance(everything[k * count : (k + 1) * count], fresh[:50], 0.01)
            for k in range(8)
        ]
        measured = float(curve.distance(torch.tensor(count)))
        assert measured == pytest.approx(sum(found) / len(found), rel=0.3)


@pytest.mark.parametrize("images", [3, 4, 5, 17, 40])
def test_counts_grow_and_distances_do_not(images):
    curve = CountCalibration(samples(images), 0.01)
    assert curve.counts[0] == 2 and curve.counts[-1] == images - 1
    assert (curve.counts.diff() > 0).all()
    assert (curve.distances.diff() <= 0).all() and (curve.distances > 0).all()


def test_a_few_images_in_many_dimensions_put_new_ones_far_away():
    curve = CountCalibration(samples(60, 2, 20), 0.01)
    ratio = float(curve.distance(torch.tensor(10)) / curve.distance(torch.tensor(59)))
    assert ratio > 2


def test_factors_are_1_at_the_largest_count_and_grow_with_the_count():
    curve = CountCalibration(samples(30), 0.01)
    count = torch.tensor([[2, 3, 5], [8, 13, 30]])
    factor = curve.factor(count)
    assert factor.shape == (2, 3) and factor.dtype == torch.float32
    assert factor[1, 2] == 1 and (factor.flatten().diff() >= 0).all()
    assert 0 < factor[0, 0] < factor[1, 0] < 1
    expected = curve.distance(torch.tensor(30)) / curve.distance(torch.tensor(5))
    assert factor[0, 2].item() == pytest.approx(float(expected), rel=1e-6)
    assert torch.equal(curve.factor(torch.full((4,), 7)), torch.ones(4))


def test_between_measured_counts_it_is_linear_in_the_logarithm_and_beyond_them_constant():
    curve = CountCalibration(samples(30), 0.01)
    assert torch.equal(curve.distance(curve.counts.long()), curve.distances)
    low, high = int(curve.counts[-2]), int(curve.counts[-1])
    assert high - low > 1
    middle = torch.tensor(low + 1)
    share = (middle.double().log() - curve.counts[-2].log()) / (
        curve.counts[-1].log() - curve.counts[-2].log()
    )
    expected = torch.lerp(curve.distances[-2], curve.distances[-1], share)
    torch.testing.assert_close(curve.distance(middle), expected)
    assert curve.distance(torch.tensor(10_000)) == curve.distances[-1]
    assert torch.equal(curve.distance(torch.tensor([0, 1])), curve.distances[[0, 0]])


def test_three_images_are_enough_and_give_one_point():
    curve = CountCalibration(samples(3), 0.01)
    assert curve.counts.tolist() == [2]
    assert torch.equal(curve.factor(torch.tensor([0, 1, 2, 3])), torch.ones(4))
    assert curve.distance(torch.zeros(2, 5)).shape == (2, 5)


def test_the_same_seed_gives_the_same_curve_and_leaves_other_random_numbers_alone():
    values = samples(20)
    state = torch.get_rng_state()
    first, second = (CountCalibration(values, 0.01, seed=5).distances for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, second)
    assert not torch.equal(CountCalibration(values, 0.01, seed=6).distances, first)


@pytest.mark.parametrize("shape", [(2, 3, 4), (5, 4), (0, 3, 4)])
def test_too_few_images_or_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"shape \[.*expected \[N, L, C\] with N at least 3"):
        CountCalibration(torch.zeros(shape), 0.01)


def test_a_curve_that_was_not_measured_changes_nothing():
    """Images without a difference: what is left of their distances is rounding."""
    curve = CountCalibration(samples(1).expand(20, -1, -1), 0.01)
    assert float(curve.distances[-1]) < 1e-6
    count = torch.tensor([0, 1, 2, 5, 19, 40])
    assert torch.equal(curve.factor(count), torch.ones(6))
    assert torch.equal(curve.ratio(torch.tensor(19), count), torch.ones(6).double())


def test_counts_on_a_gpu_meet_a_curve_that_was_measured_on_the_cpu():
    """So it is in a fit on a GPU: samples stay on the CPU, distances and counts are on the GPU."""
    curve = CountCalibration(samples(30), 0.01)
    with FakeTensorMode() as mode:
        for name in ("counts", "distances"):
            setattr(curve, name, mode.from_tensor(getattr(curve, name)))
        count = torch.full((4,), 7, device="cuda")
        assert curve.distance(count).is_cuda and curve.ratio(torch.tensor(23), count).is_cuda
        assert curve.factor(count).is_cuda


@pytest.mark.parametrize("with_prior", [False, True])
def test_subsets_together_are_as_one_by_one(with_prior, monkeypatch):
    """As on a GPU, where some of them share a call and the last call has the rest."""
    values = samples(20)
    prior = CovariancePrior(torch.eye(4).double(), 2.0, 0.1) if with_prior else None
    alone = CountCalibration(values, 0.01, prior=prior)
    monkeypatch.setattr(calibration, "_at_once", lambda _: 3)
    together = CountCalibration(values, 0.01, prior=prior)
    torch.testing.assert_close(together.distances, alone.distances, rtol=1e-12, atol=0)
