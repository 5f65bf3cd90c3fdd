"""Masks that are likely to be wrong: empty, or with black and white exchanged."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fastalign.data.images import MaskArray
from fastalign.words import agree, part_of

# A defect seldom covers so much of its photograph, and its rim as well.
_LARGE_SHARE = 0.5
_WHOLE_RIM = 0.9


@dataclass
class MaskCheck:
    """Looks at the masks of anomalous images one by one and says in the end what is odd."""

    seen: int = 0
    empty: list[Path] = field(default_factory=list)
    inverted: list[Path] = field(default_factory=list)
    _share: float = 0.0

    def add(self, path: Path, mask: MaskArray) -> None:
        """Look at a mask ``[H,W]``, True where anomalous, of an anomalous image."""
        self.seen += 1
        share = float(mask.mean())
        if share == 0:
            self.empty.append(path)
        rim = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        if share > _LARGE_SHARE and float(rim.mean()) >= _WHOLE_RIM:
            if not self.inverted:
                self._share = share
            self.inverted.append(path)

    def notes(self) -> list[str]:
        """A sentence for each kind of odd mask, with the number and the first file."""
        notes = []
        if self.empty:
            notes.append(
                f"{part_of(len(self.empty), self.seen, 'mask')} of anomalous images "
                f"{agree(len(self.empty), 'are empty')}, so that all pixels there count as good; "
                f"the first: {self.empty[0]}. Mark the defect (any value but black), or move the "
                "image to the good ones."
            )
        if self.inverted:
            notes.append(
                f"{part_of(len(self.inverted), self.seen, 'mask', 'cover')} most of the image and "
                f"its rim; the first: {self.inverted[0]} ({100 * self._share:.0f} %). A mask is "
                "white where the defect is: if black and white are exchanged there, invert it."
            )
        return notes
