"""False alarms and misses at a threshold, and at the one that would make the fewest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fastalign.engine.results import ImageResult
from fastalign.verdict import Verdict, judge


@dataclass(frozen=True)
class Mistakes:
    """What a threshold says of labelled images.

    Attributes:
        threshold: scores above it are anomalies.
        false_alarms: good images above it, of ``good``.
        missed: anomalies that are not, of ``anomalous``.
        good, anomalous: images of each kind that have a verdict.
        unsure: images without one, counted in neither of the two; ``unsure_good`` and
            ``unsure_anomalous`` are the two kinds of them.
    """

    threshold: float
    false_alarms: int
    good: int
    missed: int
    anomalous: int
    unsure: int
    unsure_good: int
    unsure_anomalous: int

    @property
    def total(self) -> int:
        """Mistakes of both kinds."""
        return self.false_alarms + self.missed

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def count_mistakes(images: Sequence[ImageResult], threshold: float | None) -> Mistakes | None:
    """The mistakes at a threshold; None without one or without labelled images."""
    labelled = [item for item in images if item.label >= 0]
    if threshold is None or not labelled:
        return None
    good = [item.score for item in labelled if item.label == 0 and item.scored]
    anomalous = [item.score for item in labelled if item.label == 1 and item.scored]
    unsure = [item.label for item in labelled if not item.scored]
    return Mistakes(
        threshold,
        sum(judge(score, threshold) is Verdict.ANOMALY for score in good),
        len(good),
        sum(judge(score, threshold) is Verdict.GOOD for score in anomalous),
        len(anomalous),
        len(unsure),
        unsure.count(0),
        unsure.count(1),
    )


def fewest_mistakes(images: Sequence[ImageResult]) -> Mistakes | None:
    """The threshold with the fewest mistakes on these images, of several the one with the fewest
    misses, halfway between two scores; None where they are not of both kinds.

    It is chosen by looking at their labels: what it promises holds for these images alone.
    """
    labelled = [item for item in images if item.label >= 0 and math.isfinite(item.score)]
    if len({item.label for item in labelled}) < 2:
        return None
    ranked = sorted(labelled, key=lambda item: item.score)
    alarms = sum(item.label == 0 for item in ranked)
    missed, best = 0, (alarms, 0, ranked[0].score / 2)
    for index, item in enumerate(ranked):
        alarms, missed = alarms - (item.label == 0), missed + (item.label == 1)
        following = ranked[index + 1].score if index + 1 < len(ranked) else item.score
        if following != item.score or index + 1 == len(ranked):
            best = min(best, (alarms + missed, missed, (item.score + following) / 2))
    return count_mistakes(images, best[2])
