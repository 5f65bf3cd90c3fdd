"""Which kernels are proved free of races, and that the prover refuses what races."""

from __future__ import annotations

import re
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
    ptx_of,
    questions,
)
from cuda_compile.ptx import entry

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

# Barriers of the PTX, first and last. The last of dense_similarity_tile is one of the loss, which
# the launch that is asked about does not want.
MUTANTS = {
    "dense_similarity_tile": (0,),
    "finish_loss": (0, -1),
    "finish_theta": (0, -1),
    "make_plans": (0, -1),
    "theta_pixels": (0, -1),
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


def _without_barrier(path: Path, symbol: str, nth: int, folder: Path) -> Path:
    """The PTX with one barrier of a kernel taken out."""
    text = path.read_text()
    body = entry(path, symbol).body
    barrier = list(re.finditer(r"^\s*bar\.sync\s+0;\n", body, re.M))[nth]
    copy = folder / f"{nth}.ptx"
    copy.write_text(text.replace(body, body[: barrier.start()] + body[barrier.end() :]))
    return copy


@pytest.mark.parametrize("family", MUTANTS)
def test_a_removed_barrier_is_refused(family, asked, tmp_path):
    question, *_ = asked[family]
    path = ptx_of(question)
    assert prove(question).races != OPEN
    for nth in MUTANTS[family]:
        mutated = prove(question, _without_barrier(path, question.kernel.symbol, nth, tmp_path))
        assert mutated.races == REFUSED, f"{question.kernel.name}, barrier {nth}: {mutated}"
