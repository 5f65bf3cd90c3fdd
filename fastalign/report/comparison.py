"""Two models on the same photographs as plain data: what each says, and how they differ.

Scores of two models have different units: what is compared are verdicts, and scores as multiples of
each model's own threshold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastalign.engine.results import Skipped, finite
from fastalign.verdict import TRUTHS, Verdict
from fastalign.words import count, part_of

LETTERS = ("a", "b")


@dataclass(frozen=True)
class Side:
    """What one model says of a photograph.

    Attributes:
        score: NaN where it is unsure.
        relative: score over threshold; None where that says nothing.
        verdict: at the model's threshold.
        reason: why it is unsure, or what speaks against the verdict; empty without such.
        trained_on: the image of the model's fit that it is, or nearly is; empty: none.
    """

    score: float
    relative: float | None
    verdict: Verdict
    reason: str = ""
    trained_on: str = ""


@dataclass(frozen=True)
class Compared:
    """A photograph that both have judged; ``label`` is 0 good, 1 anomaly, -1 unknown."""

    path: str
    label: int
    defect: str
    sides: tuple[Side, Side]

    @property
    def changed(self) -> bool:
        """Whether the verdicts differ."""
        return self.sides[0].verdict is not self.sides[1].verdict

    @property
    def change(self) -> float | None:
        """By how many thresholds it has moved; None where either has no multiple."""
        before, after = (side.relative for side in self.sides)
        return None if before is None or after is None else after - before

    @property
    def counted(self) -> bool:
        """Whether mistakes on it count: its label is known, and neither model was fitted on it."""
        return self.label in (0, 1) and not any(side.trained_on for side in self.sides)

    def right(self, side: int) -> bool:
        """Whether the verdict of that model is the label's."""
        return int(self.sides[side].verdict) == self.label

    @property
    def effect(self) -> str:
        """``"mended"`` or ``"broken"`` where a label says so, else empty."""
        if not self.counted or self.right(0) == self.right(1):
            return ""
        return "mended" if self.right(1) else "broken"

    def to_json(self) -> dict[str, Any]:
        """Plain data, a row of the table."""
        row: dict[str, Any] = {
            "path": self.path,
            "truth": TRUTHS.get(self.label),
            "defect": self.defect or None,
            "changed": self.changed,
            "change": self.change,
            "effect": self.effect or None,
        }
        for letter, side in zip(LETTERS, self.sides, strict=True):
            row |= {
                f"verdict_{letter}": side.verdict.text,
                f"relative_{letter}": side.relative,
                f"score_{letter}": side.score,
                f"reason_{letter}": side.reason or None,
                f"trained_on_{letter}": side.trained_on or None,
            }
        return finite(row)


@dataclass(frozen=True)
class Comparison:
    """Two models on the same photographs.

    Attributes:
        names: of the models' files.
        thresholds: of each; None: it has none, and is unsure of everything.
        images: that both have judged, in the order of their paths.
        auroc: of images that count, of each model; None where it cannot be computed.
        skipped: photographs that could not be read. warnings: sentences.
    """

    names: tuple[str, str]
    thresholds: tuple[float | None, float | None]
    images: Sequence[Compared]
    auroc: tuple[float | None, float | None] = (None, None)
    skipped: Sequence[Skipped] = ()
    warnings: Sequence[str] = field(default_factory=list)

    @property
    def changed(self) -> list[Compared]:
        """The photographs whose verdicts differ."""
        return [item for item in self.images if item.changed]

    @property
    def labelled(self) -> bool:
        """Whether any mistake could be counted."""
        return any(item.counted for item in self.images)

    def order(self) -> list[int]:
        """Positions of the images: changed verdicts first, then by how far they have moved."""

        def key(place: int) -> tuple[bool, float, str]:
            item = self.images[place]
            return not item.changed, -abs(item.change or 0.0), item.path

        return sorted(range(len(self.images)), key=key)

    def table(self) -> dict[str, dict[str, int]]:
        """How many photographs have which verdict of the first model, and of the second."""
        kinds = (Verdict.GOOD, Verdict.ANOMALY, Verdict.UNSURE)
        return {
            first.text: {
                second.text: sum(
                    tuple(side.verdict for side in item.sides) == (first, second)
                    for item in self.images
                )
                for second in kinds
            }
            for first in kinds
        }

    def mistakes(self, side: int) -> dict[str, int]:
        """False alarms, misses and unsure ones of one model, of ``good`` and ``anomalous``."""
        some = [item for item in self.images if item.counted]
        pairs = [(item.label, item.sides[side].verdict) for item in some]
        return {
            "false_alarms": pairs.count((0, Verdict.ANOMALY)),
            "good": sum(item.label == 0 for item in some),
            "missed": pairs.count((1, Verdict.GOOD)),
            "anomalous": sum(item.label == 1 for item in some),
            "unsure": sum(verdict is Verdict.UNSURE for _, verdict in pairs),
        }

    @property
    def effects(self) -> tuple[int, int]:
        """How many wrong verdicts the second model mends, and how many right ones it breaks."""
        found = [item.effect for item in self.images]
        return found.count("mended"), found.count("broken")

    @property
    def chance(self) -> float:
        """How often two models that are equally good differ as much as that, or more: the exact
        test of McNemar (1947, Psychometrika 12)."""
        mended, broken = self.effects
        number, few = mended + broken, min(mended, broken)
        if mended == broken:
            return 1.0
        return min(1.0, 2 * sum(math.comb(number, k) for k in range(few + 1)) / 2**number)

    @property
    def summary(self) -> str:
        """The difference in a sentence or two."""
        number, total = len(self.changed), len(self.images)
        words = f"{part_of(number, total, 'photograph', 'change')} sides"
        if not self.labelled:
            return f"{words}."
        mended, broken = self.effects
        told = (
            f"{words}. By the labels {count(mended, 'wrong verdict', 'are')} mended and "
            f"{count(broken, 'right one', 'are')} broken"
        )
        if mended == broken:
            return f"{told}."
        return f"{told}; equally good models differ as much in {100 * self.chance:.2g} % of cases."

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        mended, broken = self.effects
        labelled = {
            "mistakes": {letter: self.mistakes(side) for side, letter in enumerate(LETTERS)},
            "mended": mended,
            "broken": broken,
            "chance": self.chance,
            "image_auroc": dict(zip(LETTERS, self.auroc, strict=True)),
        }
        document = {
            "models": dict(zip(LETTERS, self.names, strict=True)),
            "thresholds": dict(zip(LETTERS, self.thresholds, strict=True)),
            "summary": self.summary,
            "photographs": len(self.images),
            "changed": len(self.changed),
            "verdicts_a_then_b": self.table(),
            "by_labels": labelled if self.labelled else None,
            "warnings": list(self.warnings),
            "skipped": [{"path": item.path, "reason": item.reason} for item in self.skipped],
            "images": [item.to_json() for item in self.images],
        }
        return finite(document)
