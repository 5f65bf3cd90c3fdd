"""Photographs that do not show the part that a model was fitted to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastalign.models.whole import whole_distance
from fastalign.words import count

if TYPE_CHECKING:
    from fastalign.models.detail import Detail
    from fastalign.models.fyd import FYD

# Normal images may exceed the largest value of those of the fit, which are few, by this factor.
_TOLERANCE = 1.2


class PartWatch:
    """Compares the whole of images with that of the normal images of the fit.

    The verdict stays the score's. A part that is another one lies far from the density everywhere,
    and alignment leaves a larger residual than of any normal image; where the residual is an
    ordinary one, it is the part, photographed otherwise.

    Args:
        model: a fitted model. One without normal validation images has nothing to compare with.
    """

    def __init__(self, model: FYD) -> None:
        self._normal = model.extra_metadata().get("normal_whole")
        self._others: list[str] = []
        self._changed: list[str] = []

    def remark(self, name: str, detail: Detail, index: int) -> str:
        """What is to be said of image ``index`` of a batch; empty for one like the others."""
        if not self._normal:
            return ""
        distance = float(whole_distance(detail.map[index : index + 1]))
        if not distance > _TOLERANCE * self._normal["distance"]:
            return ""
        times = distance / self._normal["distance"]
        far = f"its whole is {times:.1f} times as far from the normal images as any of them"
        residual, usual = float(detail.residual_after[index]), self._normal.get("residual")
        if usual is not None and residual <= _TOLERANCE * usual:
            self._changed.append(name)
            return f"photographed otherwise than the training images: {far}"
        self._others.append(name)
        return f"does not look like the part of the training images: {far}"

    def warnings(self) -> list[str]:
        """One sentence for each kind that was seen."""
        found = []
        if names := self._others:
            found.append(
                f"{count(len(names), 'image', 'do')} not look like the part that the model was "
                f"fitted to, so that scores and verdicts mean little there. The first: {names[0]}"
            )
        if names := self._changed:
            found.append(
                f"{count(len(names), 'image', 'show')} the part photographed otherwise than for "
                "the fit (light, focus, background), which raises scores everywhere. The first: "
                f"{names[0]}"
            )
        return found
