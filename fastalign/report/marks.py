"""The regions of an image as a page marks and lists them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fastalign.regions import Region
from fastalign.words import count

MOST = 8


@dataclass(frozen=True)
class Mark:
    """One region: its box and its peak in percent of the photograph's width and height, and what is
    said of it."""

    left: float
    top: float
    width: float
    height: float
    peak_x: float
    peak_y: float
    text: str


def marks(
    regions: Sequence[Region], size: tuple[int, int], threshold: float | None
) -> tuple[list[Mark], str]:
    """The regions with the highest peaks, and how many are left, in words; empty: none.

    Args:
        regions: of an image, highest peak first.
        size: width and height of the photograph in pixels.
        threshold: of pixels; peaks are told as multiples of one that is positive.
    """
    left = len(regions) - MOST
    more = f"and {count(left, 'region')} with lower peaks" if left > 0 else ""
    return [_mark(region, size, threshold) for region in regions[:MOST]], more


def _mark(region: Region, size: tuple[int, int], threshold: float | None) -> Mark:
    width, height = size
    place = region.photograph
    (x, y, wide, tall), (peak_x, peak_y) = place.box, place.peak
    usable = threshold is not None and math.isfinite(threshold) and threshold > 0
    parts = [
        f"{region.score / threshold:.2f} × pixel threshold"
        if usable and threshold
        else f"peak {region.score:.4g}",
        f"{wide:.0f} × {tall:.0f} pixels, peak at {peak_x:.0f}, {peak_y:.0f}",
    ]
    if region.roi is not None:
        parts.insert(0, region.roi)
    if region.share is not None:
        parts.append(f"{100 * region.share:.2g} % of the part")

    def across(value: float) -> float:
        return round(100 * value / width, 3)

    def down(value: float) -> float:
        return round(100 * value / height, 3)

    return Mark(
        across(x), down(y), across(wide), down(tall), across(peak_x), down(peak_y), "; ".join(parts)
    )
