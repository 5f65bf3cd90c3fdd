"""What an exported file and its model say of images, held against each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastalign.export.runners import Arrays
from fastalign.export.scorer import OUTPUTS
from fastalign.verdict import Verdict

# A place at the border of what was seen may be in it here and out of it there.
_BORDER = 1e-3
# A score or a map by its own size, what lies in 0..1 as it is.
_RELATIVE = ("score", "map")


@dataclass(frozen=True)
class Difference:
    """The largest difference of one output.

    Attributes:
        output: its name.
        largest: of a score as a share of itself, of a map as a share of its largest value, of
            coverage and residual as it is; infinite where one has a number and the other none.
        photograph: where it is; empty where there is none.
        place: of a map, ``(row, column)``.
    """

    output: str
    largest: float
    photograph: str = ""
    place: tuple[int, int] | None = None


class Compared:
    """The differences so far.

    Args:
        file, library: images to outputs by name.

    Attributes:
        count, scored: photographs, and those that have a score.
        changed: those with another verdict, with both.
        largest: the largest difference of each output.
    """

    def __init__(self, file: Callable[..., Arrays], library: Callable[..., Arrays]) -> None:
        self._file, self._library = file, library
        self.count = self.scored = 0
        self.changed: list[str] = []
        names = [name for name in OUTPUTS if name != "label"]
        self.largest = {name: Difference(name, 0.0) for name in names}

    def add(self, names: list[str], images: npt.NDArray[Any], *, again: bool = False) -> None:
        """Photographs by their names, at once; ``again``: they were compared before, each alone."""
        wanted, found = self._library(images), self._file(images)
        for index in range(len(images)):
            name = f"{names[index]}, with others" if again else names[index]
            for output in self.largest:
                self._compare(output, name, found[output][index], wanted[output][index])
            labels = [Verdict(int(of["label"][index])).text for of in (wanted, found)]
            if labels[0] != labels[1]:
                self.changed.append(f"{name}: {labels[0]} by the model, {labels[1]} by the file")
            if not again:
                self.count += 1
                self.scored += math.isfinite(float(wanted["score"][index]))

    def _compare(self, output: str, name: str, found: Any, wanted: Any) -> None:
        found, wanted = np.atleast_2d(found), np.atleast_2d(wanted)
        unlike = np.isnan(found) != np.isnan(wanted)
        apart = np.nan_to_num(np.abs(found - wanted), nan=0.0)
        if output in _RELATIVE and not np.isnan(wanted).all():
            apart = apart / max(float(np.nanmax(np.abs(wanted))), 1e-30)
        if unlike.mean() > (_BORDER if output == "map" else 0):
            apart = np.where(unlike, np.inf, apart)
        row, column = divmod(int(apart.argmax()), apart.shape[1])
        largest = float(apart[row, column])
        if largest > self.largest[output].largest:
            place = (row, column) if output == "map" else None
            self.largest[output] = Difference(output, largest, name, place)
