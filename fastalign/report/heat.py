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
    position = np.nan_to_num((scores - low) / (high - low), nan=0.0, posinf=1.0, neginf=0.0)
    position = np.clip(position, 0.0, 1.0)
    rgba = np.empty((*scores.shape, 4), dtype=np.uint8)
    rgba[..., :3] = colour_table()[(position * 255).round().astype(np.uint8)]
    opacity = np.interp(position, [at for at, _ in _OPACITY], [value for _, value in _OPACITY])
    rgba[..., 3] = (opacity * 255).round().astype(np.uint8)
    unseen = np.isnan(scores)
    if unseen.any():
        grey, line, gap = _STRIPES
        rows, columns = np.ogrid[top : top + scores.shape[0], : scores.shape[1]]
        on_line = (rows + columns) // stripe % 4 == 0
        rgba[unseen, :3] = grey
        rgba[unseen, 3] = np.where(on_line, 255 * line, 255 * gap).round().astype(np.uint8)[unseen]
    return rgba


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
    mixed = np.empty_like(image)
    # In bands, since the intermediate arrays are many times larger than a large photograph.
    for top in range(0, image.shape[0], _BAND):
        band = slice(top, top + _BAND)
        rgba = heat_rgba(scores[band], low, high, top=top, stripe=max(2, max(scores.shape) // 160))
        alpha = rgba[..., 3:].astype(np.float32) / 255
        mixed[band] = (image[band] * (1 - alpha) + rgba[..., :3] * alpha).round()
    found = judge_each(scores, threshold) == Verdict.ANOMALY
    if found.any():
        width = max(1, round(max(found.shape) / 400))
        # Dark outside, bright inside: visible on any background.
        halo = grow(found, width) & ~found
        mixed[halo] = (mixed[halo] * 0.35).astype(np.uint8)
        mixed[found & ~shrink(found, width)] = _OUTLINE
    return mixed


def grow(mask: npt.NDArray[np.bool_], by: int) -> npt.NDArray[np.bool_]:
    """The mask with ``by`` pixels more on every side (a square neighbourhood)."""
    from scipy import ndimage

    grown = mask.view(np.uint8)
    for axis in (0, 1):
        grown = ndimage.maximum_filter1d(grown, 2 * by + 1, axis=axis, mode="constant")
    return grown.view(np.bool_)


def shrink(mask: npt.NDArray[np.bool_], by: int) -> npt.NDArray[np.bool_]:
    """The mask with ``by`` pixels less on every side; the border of the picture takes none."""
    return ~grow(~mask, by)
