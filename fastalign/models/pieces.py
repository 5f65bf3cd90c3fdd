"""What is done in pieces, so that little memory is taken at once and the result stays the same."""

from __future__ import annotations

import math

MB = 1_000_000
# One pass through a stage of the backbone on a CPU: what last-level caches hold.
PASS_BYTES = 32 * MB
# Features of one image that are made at once for a score.
_FEATURE_BYTES = 32 * MB


def split_rows(rows: int, bands: int) -> list[slice]:
    """``range(rows)`` in so many bands of nearly equal size."""
    cuts = [round(band * rows / bands) for band in range(bands + 1)]
    return [slice(start, stop) for start, stop in zip(cuts, cuts[1:], strict=False)]


def feature_bands(size: tuple[int, int], channels: int, at_once: int = _FEATURE_BYTES) -> int:
    """Bands of rows in which an image's features of so many channels, on a map of ``size``, are
    described and scored, so that no more than about ``at_once`` bytes of them are there."""
    rows, columns = size
    return min(rows, math.ceil(4 * rows * columns * channels / at_once))
