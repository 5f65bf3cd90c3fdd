"""Gaussians that several processes fit together."""

from __future__ import annotations

import distributed_work as work
import pytest
import torch


@pytest.mark.parametrize(
    "counts",
    [[40, 21], [0, 50], [50, 0], [21, 0, 33], [0, 0, 60], [9, 1, 22, 0, 24], [0, 0, 0, 0, 50]],
    ids=str,
)
@pytest.mark.parametrize("masked", [False, True], ids=["all valid", "masked"])
def test_the_same_gaussians_as_one_process(processes, counts, masked):
    """Within 1e-5 relative to the largest entry of a location, in pieces that do not fill up.

    Enough images for covariances that are far from singular: what rounding does to the whitener
    grows with their condition, whoever adds up.
    """
    # 8 + 8 C + 2 C (C + 1) bytes a location: runs of 4 of 15 locations.
    options = {"counts": counts, "channels": 4, "size": (3, 5), "masked": masked}
    results = processes(len(counts), "density", run_bytes=330, **options)
    expected = work.density(work.ONE, run_bytes=330, **options)
    for found in results:
        assert torch.equal(found[2], expected[2])
        for value, wanted in zip(found, expected, strict=True):
            scale = wanted.double().abs().amax(-1, keepdim=True)
            assert ((value.double() - wanted.double()).abs() <= 1e-5 * scale).all()
    for found in results[1:]:
        assert all(map(torch.equal, found, results[0]))


def test_updates_after_a_merge_are_merged_again(processes):
    options = {"channels": 4, "size": (2, 3), "masked": False, "again": True, "run_bytes": 1}
    results = processes(3, "density", counts=[24, 13, 1], **options)
    expected = work.density(work.ONE, counts=[24, 13, 1], **options)
    for found in results:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
