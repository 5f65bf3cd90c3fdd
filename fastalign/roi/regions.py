"""Regions of interest as labels: which region each place of a picture belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from fastalign.errors import InputError

Labels = npt.NDArray[np.uint8]

MOST_REGIONS = 32


@dataclass(frozen=True, eq=False)
class RegionsOfInterest:
    """What of a part is judged, and by which name.

    Attributes:
        names: of the regions, each once.
        labels: uint8 ``[h,w]`` of a picture of the part: ``k`` is region ``names[k - 1]``, 0 is not
            judged.

    Raises:
        InputError: no region, too many, a name twice, or a region that no place belongs to.
    """

    names: tuple[str, ...]
    labels: Labels

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels)
        if labels.ndim != 2 or labels.dtype != np.uint8 or not labels.size:
            raise InputError(
                f"regions of interest: labels of shape {list(labels.shape)} and {labels.dtype}, "
                "expected uint8 [height, width]."
            )
        names = tuple(self.names)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "labels", labels)
        if not 1 <= len(names) <= MOST_REGIONS:
            raise InputError(
                f"regions of interest: {len(names)} regions, expected 1 to {MOST_REGIONS}."
            )
        for name in names:
            if not isinstance(name, str) or not name.strip() or names.count(name) > 1:
                raise InputError(
                    f"regions of interest: the name {name!r}: give each region a name of its own."
                )
        if labels.max() > len(names):
            raise InputError(
                f"regions of interest: a label {labels.max()}, but {len(names)} names; label the "
                "places of the first region 1, of the second 2, and 0 what is not judged."
            )
        self._require_all("no place of the picture belongs to it")

    def _require_all(self, why: str) -> None:
        there = set(np.unique(self.labels).tolist())
        for number, name in enumerate(self.names, 1):
            if number not in there:
                raise InputError(
                    f"regions of interest: region {name!r}: {why}; draw it larger, or leave it out."
                )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self.labels.shape[0], self.labels.shape[1]

    @property
    def shares(self) -> dict[str, float]:
        """The share of the picture, 0 to 1, that each region takes."""
        return {
            name: float((self.labels == number).mean()) for number, name in enumerate(self.names, 1)
        }

    def name_at(self, x: float, y: float) -> str | None:
        """The region at a place, in fractions of the picture; None: it is not judged."""
        height, width = self.size
        row, column = (
            min(max(int(y * height), 0), height - 1),
            min(max(int(x * width), 0), width - 1),
        )
        label = int(self.labels[row, column])
        return self.names[label - 1] if label else None

    def at(self, size: tuple[int, int]) -> RegionsOfInterest:
        """The same at height and width ``size``: a pixel has the label that takes most of it.

        Raises:
            InputError: a region takes most of no pixel.
        """
        if self.size == tuple(size):
            return self
        labels = resized(self.labels, len(self.names), size)
        try:
            return RegionsOfInterest(self.names, labels)
        except InputError as error:
            raise InputError(
                f"{error} (at {size[1]} x {size[0]} pixels, the image size of the model)"
            ) from None


def resized(labels: Labels, most: int, size: tuple[int, int]) -> Labels:
    """Labels from 0 to ``most`` at height and width ``size``, by the label that takes most of each
    pixel; of equal ones the smaller."""
    best = np.full(size, -1.0, np.float32)
    found = np.zeros(size, np.uint8)
    for label in range(most + 1):
        share = Image.fromarray((labels == label).astype(np.float32))
        part = np.asarray(share.resize((size[1], size[0]), Image.Resampling.BOX))
        # Sums of shares round; what is equal but for that is equal.
        larger = part > best + 1e-6
        best[larger], found[larger] = part[larger], label
    return found


def of_named(parts: Sequence[tuple[str, npt.NDArray[np.bool_]]]) -> RegionsOfInterest:
    """Regions of places with names, bool ``[h,w]`` each: those of one name are one region, later
    ones lie above earlier ones, and those that :func:`is_ignored` above all. Where nothing but
    these is given, all other places are one region, ``part``.

    Raises:
        InputError: as :class:`RegionsOfInterest`.
    """
    names = tuple(dict.fromkeys(name for name, _ in parts if not is_ignored(name)))
    if len(names) > MOST_REGIONS:
        raise InputError(
            f"regions of interest: {len(names)} regions, expected 1 to {MOST_REGIONS}."
        )
    labels = np.zeros(parts[0][1].shape if parts else (1, 1), np.uint8)
    if not names and parts:
        names, labels = ("part",), np.ones_like(labels)
    for name, places in parts:
        if not is_ignored(name):
            labels[places] = names.index(name) + 1
    for name, places in parts:
        if is_ignored(name):
            labels[places] = 0
    return RegionsOfInterest(names, labels)


def is_ignored(name: str) -> bool:
    """Whether a name says that its places are not judged: ``ignore``, or as annotation tools write
    it, ``__ignore__`` and ``_background_``."""
    return name.strip().strip("_").casefold() in ("ignore", "background")
