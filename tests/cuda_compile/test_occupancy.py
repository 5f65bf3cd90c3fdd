"""The occupancy calculator against figures anyone can check by hand."""

from __future__ import annotations

import pytest
from cuda_compile.chips import CHIPS, occupancy

A100, H100, _, SMALL = CHIPS


@pytest.mark.parametrize(
    ("chip", "threads", "registers", "shared", "blocks", "limit"),
    [
        (H100, 128, 32, 0, 16, "warps"),
        (H100, 32, 32, 0, 32, "blocks"),
        (H100, 256, 64, 0, 4, "registers"),
        (H100, 256, 65, 0, 3, "registers"),  # 72 each after rounding: 7 warps of a part
        (H100, 128, 255, 0, 2, "registers"),
        (A100, 128, 32, 40 * 1024, 4, "shared memory"),
        (H100, 128, 32, 227 * 1024, 1, "shared memory"),
        (SMALL, 128, 32, 0, 12, "warps"),
        (SMALL, 128, 96, 43 * 1024, 2, "shared memory"),
        (SMALL, 1024, 64, 0, 1, "warps"),
    ],
)
def test_blocks_of_a_multiprocessor(chip, threads, registers, shared, blocks, limit):
    found = occupancy(chip, threads, registers, shared)
    assert (found.blocks, found.limit) == (blocks, limit)
    assert found.share == blocks * threads / 32 / chip.warps
