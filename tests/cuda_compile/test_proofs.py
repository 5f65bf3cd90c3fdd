"""Which kernels are proved free of races, and that the prover refuses what races.

All of it as recorded, and one kernel proved here and now.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from cuda_compile import proofs
from cuda_compile.launches import Launch
from cuda_compile.proofs import EVERY_PATH, ONE_PATH, OPEN, REFUSED, REMOVED, Question
from cuda_compile.ptx import compile_ptx, named
from cuda_compile.toolchain import SOURCES
from records import checks
from records.store import Unavailable, known, made_with

# Barriers met by all threads, and no races. What is open depends on what tensors hold: on lists of
# candidates (gather, sweep), on where samples fall (warp, refine, map), on labels (order_groups) or
# on where a packed factor begins (mahalanobis).
PROVED = {
    "backward_patches": (OPEN, OPEN),
    "dense_similarity_tile": (ONE_PATH, ONE_PATH),
    "finish_loss": (EVERY_PATH, EVERY_PATH),
    "finish_theta": (EVERY_PATH, EVERY_PATH),
    "gather_pixels": (OPEN, OPEN),
    "gather_planes": (OPEN, OPEN),
    "map_columns": (EVERY_PATH, EVERY_PATH),
    "map_rows": (ONE_PATH, OPEN),
    "mahalanobis_finish": (EVERY_PATH, EVERY_PATH),
    "mahalanobis_forward": (EVERY_PATH, OPEN),
    "mahalanobis_gradients": (ONE_PATH, OPEN),
    "low_rank_forward": (EVERY_PATH, OPEN),
    "low_rank_gradients": (ONE_PATH, OPEN),
    "make_plans": (EVERY_PATH, EVERY_PATH),
    "order_groups": (EVERY_PATH, OPEN),
    "pair_any": (ONE_PATH, ONE_PATH),
    "pair_squared": (ONE_PATH, ONE_PATH),
    "pair_tiles": (ONE_PATH, ONE_PATH),
    "refine_candidates": (ONE_PATH, OPEN),
    "scale_in_place": (ONE_PATH, ONE_PATH),
    "sweep": (OPEN, OPEN),
    "theta_pixels": (ONE_PATH, ONE_PATH),
    "theta_planes": (ONE_PATH, ONE_PATH),
    "warp_patches": (OPEN, OPEN),
    "warp_pixels": (ONE_PATH, OPEN),
    "warp_planes": (ONE_PATH, OPEN),
}
# Of one kernel of a family.
FURTHER = {"low_rank_gradients<float, 1>": (EVERY_PATH, OPEN)}


@pytest.fixture(scope="module")
def recorded() -> dict[str, list[dict]]:
    """What is proved, by family of kernels."""
    found: dict[str, list[dict]] = {}
    for some in known(checks.PROOFS).values():
        for proved in some["kernels"]:
            found.setdefault(proved["kernel"].partition("<")[0], []).append(proved)
    return found


def test_every_kernel_is_asked_about(recorded, codes):
    assert set(recorded) == set(PROVED) == {code.kernel.family for code in codes}


@pytest.mark.parametrize("family", PROVED)
def test_what_is_proved(family, recorded):
    for proved in recorded[family]:
        wanted = FURTHER.get(proved["kernel"], PROVED[family])
        assert (proved["barriers"], proved["races"]) == wanted, proved
        assert (proved["races"] == OPEN) == bool(proved["reason"])


def test_a_removed_barrier_is_refused():
    found = {
        (family, int(nth)): races
        for some in known(checks.PROOFS).values()
        for family, barriers in some["without a barrier"].items()
        for nth, races in barriers.items()
    }
    wanted = {(family, nth) for family, barriers in REMOVED.items() for nth in barriers}
    assert set(found) == wanted and set(found.values()) == {REFUSED}


# One kernel of csrc/cuda by itself: its whole source takes the compiler ten times as long.
ALONE = """
#include "{header}"
namespace fastalign::cuda {{
template __global__ void finish_loss<512>(const double*, int64_t, double, float*);
}}
"""


@pytest.mark.slow
def test_a_proof_gives_what_is_recorded(recorded, tmp_path):
    """With the same tools; and without one of its barriers the kernel is refused by any."""
    try:
        tools = checks.PROOFS.made_with()
    except Unavailable as reason:
        pytest.skip(str(reason))
    source = tmp_path / "alone.cu"
    source.write_text(ALONE.format(header=SOURCES / "reduce.cuh"))
    path = compile_ptx(source)
    (kernel,) = named(path, source.name)
    arguments = ((1 << 41).to_bytes(8, "little"), (3).to_bytes(8, "little"), bytes(8))
    launch = Launch(
        kernel.name, (1, 1, 1), (512, 1, 1), 128, (*arguments, (1 << 42).to_bytes(8, "little"))
    )
    question = Question(kernel, "alone", launch)
    found = proofs.prove(question, path)
    assert found.races != REFUSED
    if made_with(checks.PROOFS)["dense_similarity"] == tools:
        (verdict,) = {(p["barriers"], p["races"]) for p in recorded[kernel.family]}
        assert (found.barriers, found.races) == verdict
    mutated = proofs.without_barrier(path, kernel.symbol, 0, Path(tmp_path))
    assert proofs.prove(question, mutated).races == REFUSED
