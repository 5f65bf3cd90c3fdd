"""What an update of a model has changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Taken:
    """A photograph that the density has taken in.

    Attributes:
        name: its file, or its number.
        before: its score by the model as it was.
        after: its score by the updated one, which has seen it.
        near: the image of the fit that it nearly is; empty: none. It has no part in the thresholds.
    """

    name: str
    before: float
    after: float
    near: str = ""


@dataclass(frozen=True)
class Update:
    """What an update has changed.

    Attributes:
        taken: photographs that the density has taken in.
        left_out: names and reasons of the others.
        before, after: thresholds of images and pixels; NaN: there are none.
        above_before, above_after: of the scores of normal images that the model keeps of its fit,
            those above the image threshold, with the earlier and with the present one; of
            ``normal`` scores.
        warnings: what the user has to know, in sentences.
    """

    taken: Sequence[Taken]
    left_out: Sequence[tuple[str, str]]
    before: tuple[float, float]
    after: tuple[float, float]
    above_before: int = 0
    above_after: int = 0
    normal: int = 0
    warnings: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data, NaN as None."""

        def known(value: float) -> float | None:
            return value if math.isfinite(value) else None

        return {
            "taken": [
                {**asdict(one), "before": known(one.before), "after": known(one.after)}
                for one in self.taken
            ],
            "left_out": [{"path": name, "reason": reason} for name, reason in self.left_out],
            "image_threshold": [known(self.before[0]), known(self.after[0])],
            "pixel_threshold": [known(self.before[1]), known(self.after[1])],
            "normal_scores": self.normal,
            "above": [self.above_before, self.above_after],
            "warnings": list(self.warnings),
        }
