"""Rows kept in 8 bits (``fastalign.nn.eight_bits``)."""

from __future__ import annotations

import pytest
import torch

from fastalign.nn import eight_bits


def rows_of(*sizes: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(len(sizes), 3, 40, generator=generator)
    return rows * torch.tensor(sizes)[:, None, None]


SIZES = (1.0, 0.3, 100.0, 1e-3, 1e-5, 3e-7, 0.0)


def test_each_number_moves_by_half_a_step_at_most():
    rows = rows_of(*SIZES)
    found = eight_bits.rounded(rows).float()
    # A scale is at most an eighth, or the least part of a float16, above what would be enough.
    step = rows.abs().amax(-1, keepdim=True) / 127 * 9 / 8 + 2.0**-24
    assert ((found - rows).abs() <= step / 2 * 1.001).all()


def test_what_was_rounded_comes_back_bit_for_bit():
    rows = eight_bits.rounded(rows_of(*(SIZES * 40)))
    numbers, scales = eight_bits.packed(rows)
    assert numbers.dtype == torch.int8 and scales.shape == rows.shape[:2]
    assert torch.equal(eight_bits.unpacked(numbers, scales), rows)


def test_every_size_of_the_largest_number_comes_back():
    """All scales, and the largest at all places between two of them."""
    largest = torch.logspace(-8, 2, 5000)[:, None, None]
    rows = eight_bits.rounded(largest * torch.tensor([1.0, -0.37, 0.004]))
    numbers, scales = eight_bits.packed(rows)
    assert torch.equal(eight_bits.unpacked(numbers, scales), rows)


def test_what_was_not_rounded_is_left_in_16_bits():
    rows = eight_bits.rounded(rows_of(1.0, 1.0))
    rows[1, 2, 0] = torch.nextafter(rows[1, 2, 0].float(), torch.tensor(2.0)).half() * 1.01
    assert eight_bits.packed(rows) is None
    rows[1, 2, 0] = torch.nan
    assert eight_bits.packed(rows) is None


def test_no_rows_are_packed_too():
    for shape in ((0, 3, 4), (5, 0, 4)):
        rows = torch.zeros(shape, dtype=torch.float16)
        numbers, scales = eight_bits.packed(rows)
        assert eight_bits.unpacked(numbers, scales).shape == shape


def test_other_shapes_and_dtypes_are_named():
    numbers, scales = torch.zeros(2, 3, 4, dtype=torch.int8), torch.ones(2, 3).half()
    for bad, named in (
        ((numbers, scales[:1]), "shape"),
        ((numbers.short(), scales), "int16"),
        ((numbers, scales.float()), "float32"),
    ):
        with pytest.raises(ValueError, match=named):
            eight_bits.unpacked(*bad)
