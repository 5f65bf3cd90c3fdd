"""Score maps as colour: one scale for every image, tied to the model's own threshold.

The colour position of a score ``s`` is ``(s / threshold - 0.6) / 0.8`` clipped to 0..1: the
threshold lies in the middle, and a score 1.4 times as high, which the core of a plain defect
reaches, at the top. Two images can be compared by eye because neither is stretched to its own
range. Colours run from dark violet to pale yellow with steadily rising lightness, so that they keep
their order for colour-blind readers and in grey print; opacity rises steeply just above the
threshold, so that a defect stands out from what is only unusual.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fastalign.verdict import Verdict, judge_each

FOOT = 0.6
TOP = 1.4
THRESHOLD_POSITION = (1.0 - FOOT) / (TOP - FOOT)

_STOPS = (
    (0.00, (74, 20, 122)),
    (0.20, (134, 28, 140)),
    (0.40, (199, 48, 108)),
    (0.60, (239, 94, 60)),
    (0.80, (252, 164, 40)),
    (1.00, (253, 243, 170)),
)
_BAND = 256
# What was not looked at: grey stripes over the photograph, in colour and opacity of line and gap.
_STRIPES = ((96, 96, 96), 0.62, 0.2)
_OUTLINE = (255, 149, 0)
# Opacity by position on the scale, whose middle is the threshold.
_OPACITY = ((0.0, 0.0), (0.5, 0.38), (0.58, 0.66), (1.0, 0.82))


def colour_table(steps: int = 256) -> npt.NDArray[np.uint8]:
    """The scale as ``[steps, 3]`` uint8 RGB."""
    at = np.linspace(0.0, 1.0, steps)
    positions = [stop for stop, _ in _STOPS]
    channels = [np.interp(at, positions, [rgb[i] for _, rgb in _STOPS]) for i in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def css_gradient() -> str:
    """The scale as a CSS ``linear-gradient`` from left to right."""
    stops = ", ".join(f"rgb({r} {g} {b}) {100 * at:.0f}%" for at, (r, g, b) in _STOPS)
    return f"linear-gradient(to right, {stops})"


def scale_limits(threshold: float, scores: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Scores at the foot and the top of the scale.

    Without a threshold (NaN, or one that is not positive) there is no common yardstick: the limits
    are then the smallest and the largest finite score given.
    """
    if math.isfinite(threshold) and threshold > 0:
        return FOOT * threshold, TOP * threshold
    finite = scores[np.isfinite(scores)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    return (low, high) if high > low else (low, low + 1.0)


def heat_rgba(
    scores: npt.NDArray[np.float32], low: float, high: float, *, top: int = 0, stripe: int = 2
) -> npt.NDArray[np.uint8]:
    """``[H, W]`` scores as ``[H, W, 4]`` uint8 RGBA; transparent at the foot of the scale.

    Places whose score is NaN, at which nothing was compared, are striped in grey, by lines of
    ``stripe`` pixels. ``top``: the row of the whole map that the first one is.
    """
    rows, columns = np.ogrid[top : top + scores.shape[0], : scores.shape[1]]
    return _coloured(scores, low, high, rows + columns, stripe)


def _coloured(
    scores: npt.NDArray[np.float32],
    low: float,
    high: float,
    diagonals: npt.NDArray[np.int64],
    stripe: int,
) -> npt.NDArray[np.uint8]:
    """RGBA of scores of any shape, each with the number of its diagonal (row plus column)."""
    position = scale_position(scores, low, high)
    rgba = np.empty((*scores.shape, 4), dtype=np.uint8)
    rgba[..., :3] = colour_table()[(position * 255).round().astype(np.uint8)]
    opacity = np.interp(position, [at for at, _ in _OPACITY], [value for _, value in _OPACITY])
    rgba[..., 3] = (opacity * 255).round().astype(np.uint8)
    unseen = np.isnan(scores)
    if unseen.any():
        grey, line, gap = _STRIPES
        on_line = diagonals[unseen] // stripe % 4 == 0
        rgba[unseen, :3] = grey
        rgba[unseen, 3] = np.where(on_line, 255 * line, 255 * gap).round().astype(np.uint8)
    return rgba


def scale_position(
    scores: npt.NDArray[np.float32], low: float, high: float
) -> npt.NDArray[np.float32]:
    """Where scores of any shape lie on the scale, 0 to 1; 0 for NaN."""
    position = np.nan_to_num((scores - low) / (high - low), nan=0.0, posinf=1.0, neginf=0.0)
    return np.clip(position, 0.0, 1.0)


def above_foot(values: npt.NDArray[np.float32], low: float) -> npt.NDArray[np.intp]:
    """The flat places of values ``[H, W]`` that are above the foot of the scale or NaN: all others
    are transparent, which most of a map is."""
    return np.flatnonzero(~(values <= low))


def heat_overlay(
    image: npt.NDArray[np.uint8], scores: npt.NDArray[np.float32], threshold: float
) -> npt.NDArray[np.uint8]:
    """The heat map laid over its image, with an outline around all that exceeds the threshold, and
    stripes over what was not looked at.

    Args:
        image: ``[H, W, 3]`` uint8 RGB.
        scores: ``[H, W]`` float32, the same size.
        threshold: the model's pixel threshold; NaN leaves the outline out and stretches the scale
            to this map alone.

    Returns:
        ``[H, W, 3]`` uint8 RGB.
    """
    low, high = scale_limits(threshold, scores)
    mixed = np.array(image, order="C")
    stripe = max(2, max(scores.shape) // 160)
    # In bands, since the intermediate arrays are many times larger than a large photograph.
    for top in range(0, image.shape[0], _BAND):
        part = scores[top : top + _BAND]
        places = above_foot(part, low)
        if not places.size:
            continue
        row, column = np.divmod(places, part.shape[1])
        rgba = _coloured(part.reshape(-1)[places], low, high, top + row + column, stripe)
        alpha = rgba[:, 3:].astype(np.float32) / 255
        pixels = mixed[top : top + _BAND].reshape(-1, 3)
        pixels[places] = (pixels[places] * (1 - alpha) + rgba[:, :3] * alpha).round()
    found = judge_each(scores, threshold) == Verdict.ANOMALY
    if found.any():
        width = max(1, round(max(found.shape) / 400))
        around = _box(found, width + 1)
        found, shown = found[around], mixed[around]
        # Dark outside, bright inside: visible on any background.
        halo = grow(found, width) & ~found
        shown[halo] = (shown[halo] * 0.35).astype(np.uint8)
        shown[found & ~shrink(found, width)] = _OUTLINE
    return mixed


def _box(mask: npt.NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    """The rows and columns that hold all of a mask which is not empty, and so many around them."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return (
        slice(max(0, int(rows[0]) - margin), int(rows[-1]) + margin + 1),
        slice(max(0, int(columns[0]) - margin), int(columns[-1]) + margin + 1),
    )


def grow(mask: npt.NDArray[np.bool_], by: int) -> npt.NDArray[np.bool_]:
    """The mask with ``by`` pixels more on every side (a square neighbourhood)."""
    for _ in range(2):
        # Along the rows of what is turned on its side, and back: a window of 2 by + 1 pixels, made
        # by doubling, looks ahead from ``by`` pixels before each.
        wide = np.pad(mask, ((by, by), (0, 0)))
        reach, whole = 1, 2 * by + 1
        while reach < whole:
            step = min(reach, whole - reach)
            further = wide.copy()
            further[:-step] |= wide[step:]
            wide, reach = further, reach + step
        mask = wide[: mask.shape[0]].T
    return mask


def shrink(mask: npt.NDArray[np.bool_], by: int) -> npt.NDArray[np.bool_]:
    """The mask with ``by`` pixels less on every side; the border of the picture takes none."""
    return ~grow(~mask, by)
