"""Losses, BatchNorm and gradients of several processes against one process with everything."""

from __future__ import annotations

import itertools

import distributed_work as work
import pytest
import torch

# Even, uneven, and with a process that holds no image.
COUNTS = ([3, 3], [4, 1], [3, 0], [2, 2, 2], [3, 2, 1], [3, 0, 2], [0, 0, 4])
LABELS = [7, -2, 7, 7, -2, 9]
EPS = torch.finfo(torch.float32).eps


def joined(parts):
    """Scalars have to agree on all processes; rows are put together."""
    if parts[0] is None:
        return None
    if parts[0].dim() == 0:
        assert all(torch.equal(part, parts[0]) for part in parts)
        return parts[0]
    return torch.cat(parts)


def compare(results, expected, exact):
    """``results[rank][i]`` against one process in float64 and, for float32, in float32 too."""
    for index, wanted in enumerate(exact):
        found = joined([result[index] for result in results])
        if wanted is None:
            assert found is None
            continue
        if found.dtype == torch.float64:
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)
            continue
        # No further from the truth than twice what one process is, and the rounding of a sum.
        error = (found.double() - wanted).abs().max()
        allowed = 2 * (expected[index].double() - wanted).abs().max()
        # A scalar is a mean of terms of size 1, which may cancel but keep their rounding.
        size = wanted.abs().max() if wanted.dim() else wanted.abs().clamp_min(1)
        assert error <= allowed + 4 * EPS * size


def check(processes, counts, name, dtype, **options):
    results = processes(len(counts), name, counts=counts, dtype=dtype, **options)
    exact, single = (
        getattr(work, name)(work.ONE, counts=counts, dtype=kind, **options)
        for kind in (torch.float64, dtype)
    )
    compare(results, single, exact)


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_similarity_and_its_loss(processes, counts):
    labels = LABELS[: sum(counts)]
    for dtype, groups, detach, loss in itertools.product(
        (torch.float64, torch.float32), (None, labels), (True, False), (True, False)
    ):
        check(processes, counts, "similarity", dtype, groups=groups, detach=detach, loss=loss)


def test_a_group_that_a_process_has_no_image_of(processes):
    """The labels of the first process do not occur on the second, but for one."""
    for groups in ([0, 0, 1, 5, 5, 1], [3, 3, 3, 8, 8, 8]):
        check(
            processes, [3, 3], "similarity", torch.float64, groups=groups, detach=False, loss=True
        )


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_distance_loss(processes, counts):
    labels = LABELS[: sum(counts)]
    for dtype, groups, masked, squared in itertools.product(
        (torch.float64, torch.float32), (None, labels), (True, False), (True, False)
    ):
        check(processes, counts, "distance", dtype, groups=groups, masked=masked, squared=squared)


def test_distance_loss_with_fewer_locations_than_processes(processes):
    options = {"groups": None, "masked": False, "squared": False, "shape": (3, 1, 2)}
    check(processes, [1, 2, 1], "distance", torch.float64, **options)


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm(processes, counts, affine):
    options = {"counts": counts, "affine": affine}
    results = processes(len(counts), "norm", dtype=torch.float64, **options)
    expected = work.norm(work.ONE, dtype=torch.float64, **options)
    for name, wanted in expected.items():
        found = [result[name] for result in results]
        together = torch.cat(found) if name in ("y", "to_x", "evaluated") else found[0]
        # The statistics are summed in float64 by another order of operations.
        torch.testing.assert_close(together, wanted, rtol=1e-11, atol=1e-12)


def test_batch_norm_far_from_zero(processes):
    """A plain sum of float32 squares would lose the variance, 1, beside 3000 squared."""
    options = {"counts": [4, 2], "affine": False, "offset": 3000.0}
    results = processes(2, "norm", dtype=torch.float32, **options)
    found = torch.cat([result["y"] for result in results])
    exact = work.norm(work.ONE, dtype=torch.float64, **options)["y"]
    # The input itself is rounded to 3000 * eps / 2.
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=3000 * EPS * 4)


def test_gradients_are_averaged_and_absent_ones_stay_absent(processes):
    present = [[True, True, False, True], [True, False, False, True]]
    for found in processes(2, "gradients", present=present):
        assert found[2] is None
        torch.testing.assert_close(found[0], torch.full((2,), 1.5))
        torch.testing.assert_close(found[1], torch.full((2, 3), 0.5))
        torch.testing.assert_close(found[3], torch.full((2,), 1.5, dtype=torch.float64))


@pytest.mark.parametrize("ddp", [False, True], ids=["average_gradients", "DDP"])
@pytest.mark.parametrize("counts", [[3, 2], [4, 0, 2]], ids=str)
def test_the_fine_loss_through_the_heads(processes, counts, ddp):
    results = processes(len(counts), "heads", counts=counts, ddp=ddp)
    loss, wanted = work.heads(work.ONE, counts=counts, ddp=False)
    for found_loss, found in results:
        torch.testing.assert_close(found_loss, loss, rtol=1e-12, atol=0)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_shares_are_all_images_once_in_order(processes):
    for number in (0, 1, 4, 7):
        assert sum(processes(3, "shares", number=number), []) == list(range(number))
