"""Regions of a score map: connected places above the threshold, in two frames. Ours."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fastalign.regions.contour import Ring, rings
from fastalign.verdict import Verdict, judge_each

CONNECTIVITY = 8
"""Pixels of a map belong together where they share an edge or a corner, as in the AUPRO."""

_NEIGHBOURS = np.ones((3, 3), dtype=bool)
_Point = tuple[float, float]
# Digits behind the point: of pixels, and of fractions of the part's frame.
_PIXEL_DIGITS, _FRACTION_DIGITS = 2, 5


@dataclass(frozen=True)
class Place:
    """Where a region lies in one frame; x runs to the right, y down, from the upper left corner.

    Attributes:
        box: ``(x, y, width, height)``, the smallest upright rectangle around it.
        area: of its pixels, in the square of the frame's unit.
        centroid: ``(x, y)``, the mean of its pixels' centres, each counting alike.
        peak: ``(x, y)``, the centre of the pixel with the highest score.
        contour: closed rings of corners ``(x, y)``, the last not repeating the first: the outer
            border first, then those of holes, which run the other way, and of parts that touch it
            at a corner alone.
    """

    box: tuple[float, float, float, float]
    area: float
    centroid: _Point
    peak: _Point
    contour: list[Ring] = field(repr=False)

    def to_json(self, digits: int) -> dict[str, Any]:
        """Plain data, numbers rounded to ``digits`` behind the point."""
        return {
            "box": [round(value, digits) for value in self.box],
            "area": round(self.area, digits),
            "centroid": _rounded(self.centroid, digits),
            "peak": _rounded(self.peak, digits),
            "contour": [[_rounded(point, digits) for point in ring] for ring in self.contour],
        }


@dataclass(frozen=True)
class Region:
    """One connected place of a photograph whose score exceeds the pixel threshold.

    Attributes:
        score: the highest of its pixels.
        photograph: where it lies in the photograph, upright, in its pixels; pixel ``(x, y)`` covers
            x..x+1 and y..y+1.
        part: where it lies in the frame in which parts are compared, in fractions of its width and
            height: the same place of two parts has the same numbers, wherever the parts lie. Parts
            of it that no aligned photograph shows are below 0 or above 1. None where the pose is
            not known.
        share: of the part that it takes, 0 to 1; None where the pose is not known.
        roi: the region of interest that its peak lies in; None: the whole part is judged.
    """

    score: float
    photograph: Place
    part: Place | None
    share: float | None
    roi: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data: pixels to the hundredth, fractions to five digits."""
        return {
            **({} if self.roi is None else {"roi": self.roi}),
            "score": self.score,
            "share_of_part": None if self.share is None else float(f"{self.share:.4g}"),
            "photograph": self.photograph.to_json(_PIXEL_DIGITS),
            "part": None if self.part is None else self.part.to_json(_FRACTION_DIGITS),
        }


class Places(Protocol):
    """Regions of interest of the part's frame by name."""

    def name_at(self, x: float, y: float) -> str | None:
        """The region at a place, in fractions of the frame; None: it is not judged."""


def find_regions(
    scores: npt.NDArray[np.float32],
    threshold: float | None,
    size: tuple[int, int],
    *,
    theta: npt.NDArray[np.floating[Any]] | None = None,
    part_area: float = 1.0,
    least_area: float = 0.0,
    roi: Places | None = None,
) -> tuple[Region, ...]:
    """The regions of a map, highest score first; of equal ones the upper, then the left one.

    Pixels above the threshold belong to one region where they share an edge or a corner
    (:data:`CONNECTIVITY`). They are those of the map as it is, whatever the photograph's size.

    Args:
        scores: ``[h, w]``, a score map in the frame of the photograph; NaN is in no region.
        threshold: scores above it are anomalies; None or NaN: there are no regions.
        size: height and width of the photograph in pixels.
        theta: ``[2, 3]``, the part's frame to the photograph's, in coordinates from -1 to 1 as
            those of ``torch.nn.functional.affine_grid``; None: not known.
        part_area: of the part, as a share of its frame.
        least_area: pixels of the photograph; smaller regions are left out.
        roi: what of the part is judged; None: all of it.
    """
    found = judge_each(scores, threshold) == Verdict.ANOMALY
    if not found.any():
        return ()
    from scipy import ndimage

    labels, _ = ndimage.label(found, structure=_NEIGHBOURS)
    regions = []
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        place = _Pixels(labels[box] == number, scores[box], box, scores.shape, size)
        if place.area < least_area:
            continue
        photograph = place.in_photograph()
        part = None if theta is None else _in_part(photograph, size, theta)
        share = None if part is None else min(1.0, part.area / part_area) if part_area > 0 else None
        inside = None
        if roi is not None:
            # Without a pose the part's frame is the photograph's.
            x, y = part.peak if part is not None else photograph.peak
            wide, high = (1.0, 1.0) if part is not None else (size[1], size[0])
            inside = roi.name_at(x / wide, y / high)
        regions.append(Region(place.highest, photograph, part, share, inside))
    # Labels are in the order of reading, which sorting keeps.
    return tuple(sorted(regions, key=lambda region: -region.score))


class _Pixels:
    """The pixels of one region, within its box."""

    def __init__(
        self,
        mask: npt.NDArray[np.bool_],
        scores: npt.NDArray[np.float32],
        box: tuple[slice, ...],
        map_size: tuple[int, ...],
        size: tuple[int, int],
    ) -> None:
        self._mask = mask
        self._top, self._left = box[0].start, box[1].start
        # Height and width of a pixel of the map in the photograph.
        self._tall, self._wide = size[0] / map_size[0], size[1] / map_size[1]
        inside = np.where(mask, scores, -np.inf)
        self._peak = np.unravel_index(int(inside.argmax()), inside.shape)
        self.highest = float(inside[self._peak])
        self.area = float(mask.sum()) * self._tall * self._wide

    def in_photograph(self) -> Place:
        rows, columns = np.nonzero(self._mask)
        height, width = self._mask.shape
        x, y = self._at(0, 0)
        # The outer border begins at the uppermost pixel, which is met first.
        contour = [[self._at(x, y) for x, y in ring] for ring in rings(self._mask)]
        return Place(
            box=(x, y, width * self._wide, height * self._tall),
            area=self.area,
            centroid=self._at(float(columns.mean()) + 0.5, float(rows.mean()) + 0.5),
            peak=self._at(float(self._peak[1]) + 0.5, float(self._peak[0]) + 0.5),
            contour=contour,
        )

    def _at(self, x: float, y: float) -> _Point:
        return (self._left + x) * self._wide, (self._top + y) * self._tall


def _in_part(
    place: Place, size: tuple[int, int], theta: npt.NDArray[np.floating[Any]]
) -> Place | None:
    """A place of the photograph in the part's frame; None where theta leads nowhere."""
    matrix = np.asarray(theta, dtype=np.float64)
    turn, shift = matrix[:, :2], matrix[:, 2]
    scale = abs(float(np.linalg.det(turn))) if np.isfinite(matrix).all() else 0.0
    if scale == 0 or not math.isfinite(scale):
        return None
    back = np.linalg.inv(turn)
    height, width = size

    def moved(points: Ring) -> Ring:
        given = np.asarray(points, dtype=np.float64) * (2 / width, 2 / height) - 1
        return [(float(x), float(y)) for x, y in ((given - shift) @ back.T + 1) / 2]

    contour = [moved(ring) for ring in place.contour]
    corners = np.asarray([point for ring in contour for point in ring])
    (left, top), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
    (centroid,), (peak,) = moved([place.centroid]), moved([place.peak])
    return Place(
        box=(left, top, right - left, bottom - top),
        area=place.area / (width * height) / scale,
        centroid=centroid,
        peak=peak,
        contour=contour,
    )


def _rounded(point: _Point, digits: int) -> list[float]:
    return [round(point[0], digits), round(point[1], digits)]
