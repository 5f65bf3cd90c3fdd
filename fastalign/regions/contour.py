"""Outlines of binary masks: as rings of corners, and as SVG path data."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_Point = tuple[int, int]
Ring = list[tuple[float, float]]
# Of two edges that leave one corner (masks that touch diagonally) take the sharper turn to the
# right, which keeps the two regions apart. Directions are (dy, dx).
_RIGHT_TURN = {(0, 1): (1, 0), (1, 0): (0, -1), (0, -1): (-1, 0), (-1, 0): (0, 1)}


def rings(mask: npt.NDArray[np.bool_]) -> list[Ring]:
    """Closed borders of all regions and holes of ``mask``, as corners ``(x, y)``.

    Pixel (y, x) covers x..x+1, y..y+1, so that a border follows the edges of pixels and encloses
    exactly theirs. Around a region corners run clockwise as they are seen, around a hole the other
    way. Where pixels touch at a corner alone they have borders of their own.
    """
    return [
        _without_collinear([(float(x), float(y)) for y, x in loop])
        for loop in _loops(np.asarray(mask, dtype=bool))
    ]


def outline(mask: npt.NDArray[np.bool_]) -> str:
    """Closed outlines of all regions and holes of ``mask`` as SVG path data (``""`` for an empty
    mask).

    Coordinates are pixels: pixel (y, x) covers x..x+1, y..y+1. Corners are cut at the middles of
    the pixel edges, so that slanted borders look slanted and not like stairs.
    """
    parts = []
    for loop in _loops(np.asarray(mask, dtype=bool)):
        middles = [
            ((x0 + x1) / 2, (y0 + y1) / 2)
            for (y0, x0), (y1, x1) in zip(loop, loop[1:] + loop[:1], strict=True)
        ]
        points = _without_collinear(middles)
        parts.append("M" + "L".join(f"{x:g} {y:g}" for x, y in points) + "Z")
    return "".join(parts)


def _loops(mask: npt.NDArray[np.bool_]) -> list[list[_Point]]:
    """Corner points (y, x) of every border, walked with the region on the right-hand side."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    # Per side of a pixel: the neighbour that must be outside, where the edge starts, where it
    # leads.
    sides = (
        (padded[:-2, 1:-1], (0, 0), (0, 1)),
        (padded[1:-1, 2:], (0, 1), (1, 0)),
        (padded[2:, 1:-1], (1, 1), (0, -1)),
        (padded[1:-1, :-2], (1, 0), (-1, 0)),
    )
    directions: dict[_Point, list[_Point]] = {}
    for neighbour, offset, direction in sides:
        for y, x in (np.argwhere(inside & ~neighbour) + offset).tolist():
            directions.setdefault((y, x), []).append(direction)
    loops = []
    while directions:
        start = next(iter(directions))
        first = direction = directions[start][0]
        loop: list[_Point] = []
        point = start
        while True:
            leaving = directions[point]
            leaving.remove(direction)
            if not leaving:
                del directions[point]
            loop.append(point)
            point = (point[0] + direction[0], point[1] + direction[1])
            turn = _RIGHT_TURN[direction]
            if point == start and (turn == first or start not in directions):
                break
            leaving = directions[point]
            direction = turn if turn in leaving else leaving[0]
        loops.append(loop)
    return loops


def _without_collinear(points: Ring) -> Ring:
    kept = []
    for before, here, after in zip(
        points[-1:] + points[:-1], points, points[1:] + points[:1], strict=True
    ):
        turn = (here[0] - before[0]) * (after[1] - here[1]) - (here[1] - before[1]) * (
            after[0] - here[0]
        )
        if turn != 0:
            kept.append(here)
    return kept
