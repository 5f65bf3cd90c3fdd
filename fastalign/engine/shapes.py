"""Photographs of another shape or size than those that a model was fitted to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fastalign.words import count

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD

# Width over height may leave the range of the training photographs by this share.
_ASPECT_TOLERANCE = 1.03
# The width may leave it by this factor: beyond, the same part shows other detail.
_SIZE_TOLERANCE = 1.5


class ShapeWatch:
    """Compares images with the training photographs; all are resized to one size.

    Args:
        model: a fitted model. One that was fitted to tensors has nothing to compare with.
    """

    def __init__(self, model: FYD) -> None:
        self._usual = model.extra_metadata().get("photographs")
        self._squeezed: list[str] = []
        self._scaled: list[str] = []

    def remark(self, name: str, image: npt.NDArray[np.uint8]) -> str:
        """What is to be said of one image ``[H, W, 3]``; empty for one like the others."""
        if not self._usual:
            return ""
        height, width = image.shape[:2]
        given = f"{width} x {height} pixels, training photographs {self._usual['typical']}"
        if _outside(width / height, self._usual["aspect"], _ASPECT_TOLERANCE):
            self._squeezed.append(f"{name}, {given}")
            return f"another shape, squeezed to fit: {given}"
        if _outside(width, self._usual["width"], _SIZE_TOLERANCE):
            self._scaled.append(f"{name}, {given}")
            return f"another size: {given}"
        return ""

    def warnings(self) -> list[str]:
        """One sentence for each kind that was seen."""
        found = []
        if self._squeezed:
            found.append(
                f"{count(len(self._squeezed), 'image')} of another shape than the training "
                "photographs, squeezed to fit, which shifts the scores; crop to the same shape, or "
                f"fit on such photographs. The first: {self._squeezed[0]}"
            )
        if self._scaled:
            found.append(
                f"{count(len(self._scaled), 'image')} of another size than the training "
                "photographs, sharper or softer once resized; photograph alike, or fit on such "
                f"photographs. The first: {self._scaled[0]}"
            )
        return found


def _outside(value: float, usual: list[float], factor: float) -> bool:
    return not usual[0] / factor <= value <= usual[1] * factor
