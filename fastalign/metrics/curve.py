"""Areas under curves of a hit rate over false alarms, with tied scores as one sloping step.

A curve is given at the distinct scores of anomalous pixels only, from the highest down. Between
two of them no hit is added, so the curve is level there, wherever the good pixels' scores lie; at a
score that good pixels share it rises linearly over as many false alarms as there are ties.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastalign.metrics.figures import Points, Rates

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Steps:
    """False alarms at the distinct anomalous scores, from the highest down.

    Attributes:
        before: good pixels with a higher score, ``[K]``.
        after: good pixels with a score as high or higher, ``[K]``.
        hits: anomalous pixels with exactly this score, ``[K]``.
        good: number of good pixels.
    """

    before: Counts
    after: Counts
    hits: Counts
    good: int


def area(steps: Steps, rate: Rates, limit: float = 1.0) -> float:
    """Area under a curve up to a false-positive rate, divided by that rate.

    Args:
        steps: the false alarms.
        rate: hit rate after each step, rising, ``[K]``.
        limit: false-positive rate to integrate to, ``0 < limit <= 1``; the curve is interpolated
            linearly there.
    """
    most = limit * steps.good
    start = np.minimum(steps.before, most)
    end = np.minimum(steps.after, most)
    left = np.minimum(np.append(0, steps.after[:-1]), most)
    low = np.append(0.0, rate[:-1])
    level = low * (start - left)
    width = end - start
    ties = np.maximum(steps.after - steps.before, 1)
    slope = width * (low + 0.5 * (rate - low) * (width / ties))
    rest = rate[-1] * (most - end[-1])
    return float((level.sum() + slope.sum() + rest) / most)


def points(steps: Steps, rate: Rates, limit: float = 1.0, cells: int = 256) -> Points:
    """The curve as few points: false-positive rates, rising from 0 to ``limit``, and hit rates.

    Args:
        steps, rate, limit: as for :func:`area`.
        cells: both axes are cut into so many; of the curve inside one cell its ends are kept, so
            that the polyline stays within a cell of it and has at most 4 points per cell of an
            axis.
    """
    x = np.stack([steps.before, steps.after], 1).ravel() / steps.good
    y = np.stack([np.append(0.0, rate[:-1]), rate], 1).ravel()
    x, y = np.concatenate([[0.0], x, [1.0]]), np.concatenate([[0.0], y, rate[-1:]])
    inside = int(np.searchsorted(x, limit, side="right"))
    if x[inside - 1] < limit:
        share = (limit - x[inside - 1]) / (x[inside] - x[inside - 1])
        end = y[inside - 1] + share * (y[inside] - y[inside - 1])
        x, y = np.append(x[:inside], limit), np.append(y[:inside], end)
    else:
        x, y = x[:inside], y[:inside]
    cell = np.floor(cells * x / limit) * (cells + 1) + np.floor(cells * y)
    change = cell[1:] != cell[:-1]
    keep = np.append(True, change) | np.append(change, True)
    return x[keep], y[keep]


def average_precision(steps: Steps) -> float:
    """Sum of precision times the step in recall over the distinct scores."""
    found = np.cumsum(steps.hits)
    precision = found / (found + steps.after)
    return float((precision * steps.hits).sum() / found[-1])
