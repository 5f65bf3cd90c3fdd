"""Smoothing matrices against scipy, whose kernel and borders are defined elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from torch.nn import functional as F

from fastalign.nn import gaussian_matrix, smooth
from fastalign.nn.smoothing import (
    gaussian_taps,
    interpolated,
    interpolated_rows,
    upsampled_smooth,
)

# Our names of the borders and those of scipy.
BORDERS = {"reflect": "mirror", "replicate": "nearest"}


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5, 4.0, 17.0])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 33, 64])
def test_the_matrix_is_scipys_filter(size, sigma, border):
    values = np.random.default_rng(size).normal(size=size)
    expected = gaussian_filter1d(values, sigma, mode=BORDERS[border])
    given = gaussian_matrix(size, sigma, border=border).double().numpy() @ values
    np.testing.assert_allclose(given, expected, atol=2e-6)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("shape", [(2, 3, 9, 14), (5, 1), (1, 6), (4, 3, 2)])
def test_both_axes_of_maps_are_smoothed(shape, border):
    maps = torch.randn(shape)
    expected = maps.double().numpy()
    for axis in (-2, -1):
        expected = gaussian_filter1d(expected, 1.7, axis=axis, mode=BORDERS[border])
    given = smooth(maps, 1.7, border=border)
    assert given.shape == maps.shape and given.dtype == maps.dtype
    np.testing.assert_allclose(given.double().numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize(("size", "sigma"), [(1, 4.0), (2, 9.0), (5, 0.1), (40, 4.0), (300, 4.0)])
def test_rows_sum_to_1_and_nothing_is_negative(size, sigma, border):
    matrix = gaussian_matrix(size, sigma, border=border)
    assert matrix.shape == (size, size) and matrix.dtype == torch.float32
    assert (matrix >= 0).all()
    torch.testing.assert_close(matrix.sum(1), torch.ones(size))


def test_a_constant_map_stays_and_no_value_leaves_the_range():
    torch.testing.assert_close(smooth(torch.full((2, 5, 8), 3.0), 4), torch.full((2, 5, 8), 3.0))
    maps = torch.rand(3, 12, 12)
    smoothed = smooth(maps, 2)
    assert smoothed.min() >= maps.min() and smoothed.max() <= maps.max()


@pytest.mark.parametrize("sigma", [0.0, 1.5, 4.0])
def test_upsampling_and_smoothing_are_one_product_for_each_axis(sigma):
    maps = torch.rand(2, 6, 9)
    grown = F.interpolate(maps[:, None], (31, 40), mode="bilinear", align_corners=False)[:, 0]
    found = upsampled_smooth(maps, (31, 40), sigma)
    torch.testing.assert_close(found, smooth(grown, sigma), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("sigma", [0.0, 0.3, 2.5])
def test_taps_are_a_row_of_the_matrix_far_from_its_borders(sigma):
    taps = gaussian_taps(sigma)
    radius = len(taps) // 2
    row = F.pad(taps, (20 - radius, 20 - radius))
    assert torch.equal(gaussian_matrix(41, sigma)[20], row)


def test_sigma_0_changes_nothing():
    assert torch.equal(gaussian_matrix(5, 0), torch.eye(5))
    maps = torch.rand(2, 3, 4)
    assert torch.equal(smooth(maps, 0), maps)


def test_gradients_pass_and_float64_is_kept():
    maps = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    smooth(maps, 1.0).sum().backward()
    # What a pixel gives away lands somewhere: the columns of both matrices, multiplied.
    rows, columns = gaussian_matrix(4, 1.0).sum(0), gaussian_matrix(5, 1.0).sum(0)
    expected = torch.outer(rows, columns).double().expand(2, 4, 5)
    torch.testing.assert_close(maps.grad, expected, rtol=1e-6, atol=1e-6)


def test_a_matrix_made_in_inference_mode_serves_training_later():
    """Matrices are kept; one that inference made must not spoil gradients."""
    with torch.inference_mode():
        gaussian_matrix(11, 1.234)
    maps = torch.rand(1, 11, 11, requires_grad=True)
    smooth(maps, 1.234).square().sum().backward()
    assert maps.grad.any()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"size": 0, "sigma": 1.0}, "size=0"),
        ({"size": 4, "sigma": -1.0}, r"sigma=-1\.0"),
        ({"size": 4, "sigma": float("nan")}, "sigma=nan"),
        ({"size": 4, "sigma": float("inf")}, "sigma=inf"),
        ({"size": 4, "sigma": 1.0, "border": "wrap"}, "border='wrap'.*reflect, replicate"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, named):
    with pytest.raises(ValueError, match=f"gaussian_matrix: .*{named}"):
        gaussian_matrix(**arguments)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_maps_are_interpolated_as_torch_does_in_the_quick_layout(layout):
    maps = torch.randn(2, 9, 5, 7).contiguous(memory_format=layout)
    found = interpolated(maps, (17, 30))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, F.interpolate(maps, (17, 30), mode="bilinear", align_corners=False))


@pytest.mark.parametrize("given", [(5, 7), (8, 8), (1, 3), (16, 9)])
@pytest.mark.parametrize("size", [(16, 16), (17, 30), (33, 8)])
def test_rows_are_interpolated_as_in_the_whole(given, size):
    maps = torch.randn(2, 3, *given)
    whole = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    for start in range(0, size[0], 5):
        rows = slice(start, start + 5)
        part = interpolated_rows(maps, size, rows)
        torch.testing.assert_close(part, whole[:, :, rows], rtol=1e-5, atol=1e-5)
