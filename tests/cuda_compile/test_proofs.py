"""Which kernels are proved free of races, and that the prover refuses what races."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cuda_compile.proofs import (
    EVERY_PATH,
    ONE_PATH,
    OPEN,
    REFUSED,
    Question,
    prove,
    prover,
    questions,
)
from cuda_compile.ptx import compile_ptx

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "cuda_on_cpu")]

from cuda_on_cpu_support.mutants import Mutant  # noqa: E402

pytestmark = pytest.mark.slow

# Barriers met by all threads, and no races. What is open depends on what tensors hold: on lists of
# candidates (gather, sweep), on where samples fall (warp), on labels (order_groups) or on where a
# packed factor begins (mahalanobis).
PROVED = {
    "dense_similarity_tile": (ONE_PATH, ONE_PATH),
    "finish_loss": (EVERY_PATH, EVERY_PATH),
    "finish_theta": (EVERY_PATH, EVERY_PATH),
    "gather_pixels": (OPEN, OPEN),
    "gather_planes": (OPEN, OPEN),
    "mahalanobis_finish": (EVERY_PATH, EVERY_PATH),
    "mahalanobis_forward": (EVERY_PATH, OPEN),
    "mahalanobis_gradients": (ONE_PATH, OPEN),
    "make_plans": (EVERY_PATH, EVERY_PATH),
    "order_groups": (EVERY_PATH, OPEN),
    "pair_any": (ONE_PATH, ONE_PATH),
    "pair_squared": (ONE_PATH, ONE_PATH),
    "pair_tiles": (ONE_PATH, ONE_PATH),
    "scale_in_place": (ONE_PATH, ONE_PATH),
    "sweep": (OPEN, OPEN),
    "theta_pixels": (ONE_PATH, ONE_PATH),
    "theta_planes": (ONE_PATH, ONE_PATH),
    "warp_pixels": (ONE_PATH, OPEN),
    "warp_planes": (ONE_PATH, OPEN),
}

BARRIER = r"__syncthreads\(\);"
MUTANTS = {
    "finish_loss": Mutant("dense_similarity", "removed barrier", "reduce.cuh", BARRIER, ""),
    "finish_theta": Mutant("warp_affine", "removed barrier", "warp_theta.cuh", BARRIER, "", 6),
    "make_plans": Mutant("warp_affine", "removed barrier", "warp_plan.cuh", BARRIER, "", 0),
}


@pytest.fixture(scope="module")
def asked(compiled) -> dict[str, list[Question]]:
    """By family of kernels."""
    every = compiled("sm_100")
    if prover() is None:
        pytest.skip("no prover: the package sentryward is not installed")
    found: dict[str, list[Question]] = {kernel.family: [] for kernel in every}
    for question in questions():
        found[question.kernel.family].append(question)
    return found


def test_every_kernel_is_asked_about(asked):
    assert set(asked) == set(PROVED)
    assert not [family for family, some in asked.items() if not some]


@pytest.mark.parametrize("family", PROVED)
def test_what_is_proved(family, asked):
    for question in asked[family]:
        verdict = prove(question)
        assert (verdict.barriers, verdict.races) == PROVED[family], (
            f"{question.kernel.name}: {verdict}"
        )
        assert (verdict.races == OPEN) == bool(verdict.reason)


@pytest.mark.parametrize("family", MUTANTS)
def test_a_removed_barrier_is_refused(family, asked):
    question, *_ = asked[family]
    assert prove(question).races == EVERY_PATH
    copy = MUTANTS[family].source()
    mutated = prove(question, compile_ptx(copy / "cuda" / question.kernel.source))
    assert mutated.races == REFUSED, mutated
