"""The cases: an op's work on one shape, in one dtype and layout, and what is required on the CPU.

One list for every device; the required ratios were set for two CPU threads. ``CASES`` are the
chosen ones, the most telling first, so that a run that is cut short has them; ``GRID`` continues
them to every op, mode, dtype, layout and shape; ``QUICK`` are a few small ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fastalign.bench.modes import BACKWARD, BOTH, FORWARD, LOSS, MODES, Results, Work
from fastalign.bench.problem import CHANNELS_LAST, CONTIGUOUS, FORMATS, Problem
from fastalign.bench.works import KINDS


@dataclass(frozen=True)
class Case(Problem):
    """One row of the tables: a problem, with what is compared on it."""

    @property
    def mode(self) -> str:
        """forward, backward or both."""
        return MODES[self.work]

    def inputs(self, device: str, seed: int = 0) -> Results:
        return KINDS[self.op, self.work].inputs(self, device, seed)

    def ours(self, backend: str | None) -> Work:
        return KINDS[self.op, self.work].ours(backend)

    def baselines(self) -> dict[str, Work]:
        """Fresh callables, so that nothing compiled for another shape is taken again."""
        found = KINDS[self.op, self.work].others(self)
        if self.dtype != torch.float32 or self.layout != CONTIGUOUS:
            found.pop("loop", None)  # takes longer than all others and says the same again
        return found

    def bytes(self) -> int:
        """What the op has to move: each input read and each output written once."""
        return KINDS[self.op, self.work].bytes(self)


SIMILARITY_SHAPES = ((8, 64, 128, 128), (8, 128, 64, 64), (8, 256, 64, 64), (32, 256, 16, 16))
WARP_SHAPES = ((8, 3, 1024, 1024), (8, 64, 128, 128), (8, 256, 32, 32))
DISTANCE_SHAPE = (32, 3, 224, 224)
MAHALANOBIS_SHAPES = ((1, 100, 64, 64), (8, 100, 64, 64))
LOW_RANK_SHAPES = ((1, 176, 64, 64), (8, 176, 64, 64))
REFINE_SHAPES = ((1, 1, 64, 64), (32, 1, 64, 64))
MAP_SHAPES = ((1, 1, 32, 32), (8, 1, 32, 32), (1, 1, 128, 128))


def _cases() -> list[Case]:
    similarity, warp = "dense_similarity", "warp_affine"
    distance, mahalanobis = "pairwise_distance", "mahalanobis"
    refine, mapped = "refine_pose", "anomaly_map"
    half: dict[str, Any] = {"dtype": torch.bfloat16}
    quarter: dict[str, Any] = {"storage": torch.bfloat16}
    last: dict[str, Any] = {"layout": CHANNELS_LAST}
    return [
        *(Case(similarity, LOSS, shape) for shape in SIMILARITY_SHAPES),
        *(Case(warp, work, shape) for work in (FORWARD, BOTH) for shape in WARP_SHAPES),
        Case(distance, LOSS, DISTANCE_SHAPE),
        *(Case(mahalanobis, FORWARD, shape) for shape in MAHALANOBIS_SHAPES),
        *(Case(refine, FORWARD, shape) for shape in REFINE_SHAPES),
        *(Case(mapped, FORWARD, shape) for shape in MAP_SHAPES),
        *(Case(mahalanobis, FORWARD, shape, **quarter) for shape in MAHALANOBIS_SHAPES),
        *(Case(similarity, LOSS, SIMILARITY_SHAPES[n], **half) for n in (0, 2)),
        *(Case(warp, BOTH, WARP_SHAPES[n], **half) for n in (0, 1)),
        Case(distance, LOSS, DISTANCE_SHAPE, **half),
        Case(similarity, LOSS, (4, 32, 16, 16), small=True),
        Case(warp, BOTH, (4, 32, 16, 16), small=True),
        Case(distance, LOSS, (8, 3, 32, 32), small=True),
        Case(mahalanobis, FORWARD, (1, 32, 8, 8), small=True),
        *(Case(similarity, LOSS, SIMILARITY_SHAPES[n], **last) for n in (0, 2)),
        Case(similarity, LOSS, SIMILARITY_SHAPES[2], **last, **half),
        *(Case(warp, BOTH, WARP_SHAPES[n], **last) for n in (0, 1)),
        Case(warp, BOTH, WARP_SHAPES[1], **last, **half),
        Case(distance, LOSS, DISTANCE_SHAPE, **last),
        Case(mahalanobis, FORWARD, MAHALANOBIS_SHAPES[1], **last),
        Case(mahalanobis, FORWARD, MAHALANOBIS_SHAPES[1], storage=torch.float16),
        *(Case(mahalanobis, FORWARD, shape, rank=32, **last) for shape in LOW_RANK_SHAPES),
        *(
            Case(mahalanobis, FORWARD, shape, rank=32, storage=torch.float16, **last)
            for shape in LOW_RANK_SHAPES
        ),
    ]


DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = {
    "dense_similarity": SIMILARITY_SHAPES,
    "warp_affine": WARP_SHAPES,
    "pairwise_distance": (DISTANCE_SHAPE, (8, 3, 256, 256)),
    "mahalanobis": MAHALANOBIS_SHAPES,
    "refine_pose": REFINE_SHAPES,
    "anomaly_map": MAP_SHAPES,
}


def _grid(chosen: Sequence[Case]) -> list[Case]:
    every = [
        Case(op, work, shape, dtype, layout, torch.float32)
        for op, work in KINDS
        for shape in SHAPES.get(op, SIMILARITY_SHAPES)
        for dtype in DTYPES
        for layout in FORMATS
    ]
    return [*chosen, *(case for case in every if case not in chosen)]


def _quick() -> list[Case]:
    half: dict[str, Any] = {"dtype": torch.bfloat16}
    last: dict[str, Any] = {"layout": CHANNELS_LAST}
    return [
        Case("warp_affine", FORWARD, (8, 3, 512, 512)),
        Case("dense_similarity", LOSS, (8, 128, 64, 64)),
        Case("mahalanobis", FORWARD, (1, 100, 64, 64)),
        Case("pairwise_distance", LOSS, (16, 3, 128, 128)),
        Case("warp_affine", BOTH, (8, 64, 64, 64)),
        Case("warp_affine", BACKWARD, (8, 64, 64, 64), **last),
        Case("dense_similarity", LOSS, (8, 128, 64, 64), **half),
        Case("mahalanobis", FORWARD, (8, 100, 32, 32), storage=torch.bfloat16),
        Case("refine_pose", FORWARD, (1, 1, 64, 64)),
        Case("anomaly_map", FORWARD, (1, 1, 32, 32)),
    ]


CASES = _cases()
GRID = _grid(CASES)
QUICK = _quick()


@dataclass(frozen=True)
class Goal:
    """A required ratio on the CPU, over the plain float32 cases of one kind of work.

    ``against``: the fastest of these baselines counts. ``at_least``: times faster;
    ``at_most``: times the baseline's time, ``beyond_cache`` only where the data do not fit it.
    """

    op: str
    work: str
    against: tuple[str, ...]
    at_least: float | None = None
    at_most: float | None = None
    beyond_cache: bool = False
    batch: int | None = None

    def covers(self, case: Case) -> bool:
        plain = case.dtype == torch.float32 and case.stored == "float32"
        plain = plain and case.layout == CONTIGUOUS
        same = (case.op, case.work) == (self.op, self.work)
        return plain and same and not case.small and self.batch in (None, case.shape[0])


GOALS = (
    Goal("dense_similarity", LOSS, ("compiled",), at_least=3),
    Goal("dense_similarity", LOSS, ("loop",), at_least=60),
    Goal("dense_similarity", LOSS, ("memcpy",), at_most=2.5, beyond_cache=True),
    Goal("warp_affine", FORWARD, ("eager", "compiled"), at_least=3),
    Goal("warp_affine", BOTH, ("eager", "compiled"), at_least=5),
    Goal("pairwise_distance", LOSS, ("eager", "cdist"), at_least=10),
    Goal("mahalanobis", FORWARD, ("eager",), at_least=6, batch=1),
    Goal("mahalanobis", FORWARD, ("eager",), at_least=5, batch=8),
)
