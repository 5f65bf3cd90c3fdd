"""Asynchronous copies are committed and waited for before anybody reads what they bring."""

from __future__ import annotations

import pytest
from cuda_on_cpu_support import late_copies
from cuda_on_cpu_support.backend import BACKEND, DTYPES, serve
from cuda_on_cpu_support.checks import ALL_CASES, check_case
from cuda_on_cpu_support.kernels import Kernels
from op_support.cases import Inputs

LAYOUTS = ("contiguous", "channels_last")
SHAPES = ((5, 16, 18, 8), (9, 3, 4, 12))  # several tiles; rows of whole vectors


def _is_right(op: str, kernels: Kernels) -> bool:
    """Of each case one call, dtypes, layouts and shapes in turn."""
    serve(kernels)
    cases = [case for case in ALL_CASES if case.op.startswith(op)]
    for turn, case in enumerate(cases):
        inputs = Inputs(DTYPES[turn % 3], "cpu", LAYOUTS[turn // 3 % 2], SHAPES[turn // 6 % 2])
        try:
            check_case(case, BACKEND, inputs)
        except AssertionError:
            return False
    return True


def test_every_copy_can_be_late():
    assert late_copies.sources_of_copies() == late_copies.late()


@pytest.mark.slow
@pytest.mark.parametrize("op", ["warp_affine", "dense_similarity", "mahalanobis"])
def test_copies_may_land_as_late_as_their_wait(op):
    assert _is_right(op, late_copies.build(op))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("op", "statement"),
    [
        ("warp_affine", "wait_for_copies<0>();"),
        ("warp_affine", "commit_copies();"),
        ("dense_similarity", "wait_for_copies<0>();"),
        ("mahalanobis", "end_of_copies();"),
    ],
)
def test_a_copy_that_nobody_waits_for_is_seen(op, statement):
    assert not _is_right(op, late_copies.build(op, statement, ""))
