"""The model written out in torch's own ops scores as the model does, whatever its options."""

from __future__ import annotations

import pytest
import torch
from export_options import OPTIONS

from fastalign.export import plain_ops
from fastalign.nn.registration.bank import TemplateBank
from fastalign.nn.registration.encoder import resize
from fastalign.ops.reference.refine_pose import eliminate


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_scores_and_maps_are_the_same(fitted, batch, options):
    model = fitted(**options)
    with torch.no_grad():
        score, maps = model(batch)
        with plain_ops():
            plain_score, plain_maps = model(batch)
    torch.testing.assert_close(plain_score, score, rtol=1e-4, atol=0)
    torch.testing.assert_close(
        plain_maps, maps, rtol=1e-4, atol=1e-4 * float(maps.nan_to_num(0).max()), equal_nan=True
    )


@pytest.mark.parametrize("steps", [0, 1, 8])
def test_any_number_of_refinement_steps(fitted, batch, steps):
    model = fitted(align="ica", family="similarity")
    before = model.pose.aligner.refiner.iterations
    model.pose.aligner.refiner.iterations = steps
    try:
        with torch.no_grad():
            theta, (score, _) = model.align(batch), model(batch)
            with plain_ops():
                plain_theta, (plain_score, _) = model.align(batch), model(batch)
    finally:
        model.pose.aligner.refiner.iterations = before
    # Of steps that no longer change the correlation one or the other is kept: by less than a
    # hundredth of a pixel.
    pixel = 2 / max(batch.shape[2:])
    torch.testing.assert_close(plain_theta, theta, rtol=0, atol=0.01 * pixel)
    torch.testing.assert_close(plain_score, score, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("old", "new"), [((30, 44), (20, 32)), ((20, 20), (33, 40)), ((9, 7), (4, 7))]
)
def test_resizing_by_matrices_is_torch_s(old, new):
    images = torch.rand(2, 3, *old)
    with plain_ops():
        found = resize(images, new)
    torch.testing.assert_close(found, resize(images, new), rtol=0, atol=4e-7)


def test_correlation_by_convolution_is_that_by_fourier_transforms():
    bank = TemplateBank(torch.tensor([-0.1, 0, 0.1]), torch.randn(3, 5, 8, 11))
    descriptors = torch.randn(2, 5, 8, 11)
    with plain_ops():
        found = bank.correlate(descriptors)
    torch.testing.assert_close(found, bank.correlate(descriptors), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("unknowns", [1, 3, 6])
def test_systems_are_solved_by_elimination(unknowns):
    root = torch.randn(4, unknowns, unknowns, dtype=torch.float64)
    matrix = root @ root.mT + 0.1 * torch.eye(unknowns)
    right = torch.randn(4, unknowns, 1, dtype=torch.float64)
    torch.testing.assert_close(matrix @ eliminate(matrix, right), right)
