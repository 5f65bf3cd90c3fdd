"""The controls against naive computations of what they are said to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastalign.bench import contestants, models
from fastalign.bench.controls import CONTROLS
from fastalign.bench.controls.banks import (
    MahalanobisPatchcore,
    Patchcore,
    PositionFree,
    coreset,
    drawn,
)
from fastalign.bench.controls.contestant import Controlled
from fastalign.bench.controls.features import Seen, concatenated, patches, see, turned
from fastalign.bench.controls.padim import Padim
from fastalign.bench.controls.place import SamePlace
from fastalign.bench.controls.subspace import PcaResidual


def seen(images: int, scale: float = 1.0, valid: bool = False) -> Seen:
    """Stages of 3, 2 and 2 channels."""
    sizes = (3, 4, 6), (2, 2, 3), (2, 1, 2)
    shapes = [(images, *size) for size in sizes]
    stages = [scale * torch.randn(shape) + 2 for shape in shapes]
    return Seen(stages, valid=torch.rand(images, 4, 6) > 0.4 if valid else None)


def vectors(features: torch.Tensor) -> np.ndarray:
    """``[B,h*w,C]`` in float64."""
    return features.flatten(2).mT.double().numpy()


def to_nearest(found: np.ndarray, bank: np.ndarray) -> np.ndarray:
    return np.linalg.norm(found[..., None, :] - bank, axis=-1).min(-1)


def is_close(found: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found.flatten(1).numpy(), expected, rtol=2e-4, atol=2e-4)


def test_padim_is_the_distance_to_each_location_s_gaussian():
    good, others = seen(9), seen(2, 2.0)
    control = Padim(seed=3, channels=4)
    control.fit(good.batches(4), 9)
    drawn_channels = torch.randperm(7, generator=torch.Generator().manual_seed(3))[:4]
    train, test = (
        vectors(concatenated(s.stages, "nearest")[:, drawn_channels]) for s in (good, others)
    )
    expected = np.empty(test.shape[:2])
    for place in range(test.shape[1]):
        inverse = np.linalg.inv(np.cov(train[:, place].T) + 0.01 * np.eye(4))
        delta = test[:, place] - train[:, place].mean(0)
        expected[:, place] = np.sqrt(np.einsum("bi,ij,bj->b", delta, inverse, delta))
    is_close(control.score(others).distance, expected)
    assert [tuple(t.shape) for t in control.stored()] == [(4, 4, 6), (24, 4, 4)]


def test_a_coreset_takes_what_is_farthest_from_what_it_has():
    points = torch.randn(40, 5)
    chosen = coreset(points, 12, torch.Generator().manual_seed(1)).tolist()
    assert len(set(chosen)) == 12
    for number in range(1, 12):
        left = torch.cdist(points, points[chosen[:number]]).amin(1)
        assert chosen[number] == int(left.argmax())
    wide = torch.randn(40, 300)
    assert len(set(coreset(wide, 40, torch.Generator()).tolist())) == 40
    # More than there are, and copies.
    assert len(coreset(points[:1].expand(3, -1), 9, torch.Generator())) == 3


def test_patchcore_is_the_reweighted_distance_to_its_coreset():
    good, others = seen(6), seen(3, 2.0)
    control = Patchcore(seed=0, kept=0.5, neighbours=4)
    control.fit(good.batches(4), 6)
    (bank,) = control.stored()
    bank = bank.double().numpy()
    assert len(bank) == 18
    test, judged = vectors(patches(others.stages)), control.score(others)
    distance = to_nearest(test, bank)
    is_close(judged.distance, distance)
    for image, patch in enumerate(distance.argmax(1)):
        own = test[image, patch]
        nearest = bank[np.linalg.norm(bank - own, axis=1).argmin()]
        around = bank[np.linalg.norm(bank - nearest, axis=1).argsort()[:4]]
        weights = np.exp(np.linalg.norm(around - own, axis=1))
        expected = (1 - weights[0] / weights.sum()) * distance[image].max()
        assert float(judged.score[image]) == pytest.approx(expected, rel=1e-3)


def test_its_mahalanobis_form_measures_by_the_covariance_of_all_patches():
    good, others = seen(9), seen(2, 2.0)
    control = MahalanobisPatchcore(seed=0, kept=1.0)
    control.fit(good.batches(4), 9)
    train, test = (vectors(patches(s.stages)) for s in (good, others))
    pool = train.reshape(-1, train.shape[2])
    covariance = np.cov(pool.T)
    values, axes = np.linalg.eigh(covariance)
    values, axes = values[::-1], axes[:, ::-1]
    number = int((values.cumsum() < 0.99 * values.sum()).sum()) + 1
    axes = axes[:, :number]
    shrunk = 0.93 * np.diag(values[:number]) + 0.07 * values[:number].mean() * np.eye(number)
    delta = (test[:, :, None] - pool) @ axes
    square = np.einsum("bpni,ij,bpnj->bpn", delta, np.linalg.inv(shrunk), delta)
    is_close(control.score(others).distance, np.sqrt(square.min(-1)))


@pytest.mark.parametrize("radius", [0, 1])
def test_same_place_looks_no_farther_than_its_radius_and_at_what_was_seen(radius):
    good, others = seen(3, valid=True), seen(2, 2.0)
    assert good.valid is not None
    good.valid[:, :2, :3] = False
    control = SamePlace(radius)
    control.fit(good.batches(2), 3)
    train, test = (vectors(concatenated(s.stages)).reshape(-1, 4, 6, 7) for s in (good, others))
    expected = np.full((2, 4, 6), np.inf)
    for row, column in np.ndindex(4, 6):
        for i, j in np.ndindex(4, 6):
            if max(abs(i - row), abs(j - column)) <= radius:
                bank = train[good.valid[:, i, j].numpy(), i, j]
                for image in range(2 if len(bank) else 0):
                    found = to_nearest(test[image, row, column], bank)
                    expected[image, row, column] = min(expected[image, row, column], found)
    judged = control.score(others)
    assert judged.support is not None and not judged.support.all()
    assert np.array_equal(judged.support.numpy(), np.isfinite(expected[0]))
    is_close(judged.distance, np.where(np.isfinite(expected), expected, 0).reshape(2, -1))


def test_same_place_keeps_the_first_photographs():
    good = seen(5)
    control = SamePlace(0, photographs=3)
    control.fit(good.batches(2), 5)
    distance = control.score(good).distance
    assert (distance[:3] < 1e-2).all() and (distance[3:] > 1e-2).all()


def test_any_place_is_the_distance_to_what_was_drawn():
    good, others = seen(3), seen(2, 2.0)
    control = PositionFree(1, seed=0)
    control.fit(good.batches(2), 3)
    train, test = (vectors(patches(s.stages)) for s in (good, others))
    is_close(control.score(others).distance, to_nearest(test, train.reshape(-1, 4)))


def test_a_large_bank_is_drawn_evenly():
    good = seen(4)
    kept = drawn(good.batches(3), 4, 8, torch.Generator())
    every = patches(good.stages).flatten(2).mT
    owners = [(every == row).all(2).any(1).nonzero()[0, 0].item() for row in kept]
    assert owners == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(drawn(good.batches(3), 4, 3, torch.Generator())) == 3


def test_the_pca_residual_is_what_the_components_leave():
    good, others = seen(6), seen(2, 2.0)
    control = PcaResidual(share=0.8)
    control.fit(good.batches(4), 6)
    train, test = (vectors(concatenated(s.stages)) for s in (good, others))
    pool = train.reshape(-1, 7)
    _, lengths, axes = np.linalg.svd(pool - pool.mean(0), full_matrices=False)
    number = int(((lengths**2).cumsum() < 0.8 * (lengths**2).sum()).sum()) + 1
    assert 1 <= number < 7
    centred = test - pool.mean(0)
    rest = centred - centred @ axes[:number].T @ axes[:number]
    is_close(control.score(others).distance, np.linalg.norm(rest, axis=2))


def test_copies_are_turned_over_a_full_turn():
    images = torch.rand(2, 3, 8, 8)
    copies = list(turned(images, 4, aspect=1.0))
    assert torch.equal(copies[0], images)
    quarters = {torch.rot90(images, k, (2, 3)) for k in (1, 2, 3)}
    for copy in copies[1:]:
        assert min(float((copy - quarter).abs().max()) for quarter in quarters) < 1e-4
    # In true units: at twice the width a half turn is one, a quarter turn is none.
    half = list(turned(images, 2, aspect=2.0))[1]
    assert torch.allclose(half, torch.rot90(images, 2, (2, 3)), atol=1e-4)


def test_every_control_goes_from_images_to_maps_in_their_frame(tiny_batch):
    images = torch.nn.functional.interpolate(tiny_batch, (32, 32))
    made = contestants.make("PCA residual", 32)
    assert isinstance(made, Controlled) and isinstance(made.control, PcaResidual)
    made.learn(images.split(4))
    for name in CONTROLS:
        made.control = CONTROLS[name](0)
        with torch.inference_mode():
            made.control.fit([see(made.model, images, aligned=False)], len(images))
        found = made.score(images[:2])
        assert found.shape == (2, 32, 32) and found.isfinite().all(), name
        assert made.stored_bytes() > 4 * sum(t.numel() for t in made.control.stored())


def test_the_full_profile_measures_the_controls():
    assert {job.contestant for job in models.FULL if job.part == "control"} == set(CONTROLS)
