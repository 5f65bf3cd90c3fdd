"""A statistic of normal photographs, and how unusual a value is beside them."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist, median
from typing import Any

import numpy as np

LEAST = 10
"""Fewer normal photographs say nothing of drift."""
# Values that a record keeps of a statistic at most.
_KEPT = 200
FARTHEST = 3.0
"""A single value, however far out, counts as one so many standard deviations away."""
_MOST_PERSISTENCE = 0.8
_STANDARD = NormalDist()


def persistence_of(squared_steps: float, variance: float) -> float:
    """How much of a value the next one keeps, 0 to 0.8: the first autocorrelation, by the mean
    square of the steps between neighbours (von Neumann's ratio)."""
    if not variance > 1e-12:
        return 0.0
    return min(_MOST_PERSISTENCE, max(0.0, 1 - squared_steps / (2 * variance)))


def inflation(persistence: float) -> float:
    """By what the variance of sums of such values exceeds that of independent ones: of a first
    order autoregression."""
    return (1 + persistence) / (1 - persistence)


@dataclass(frozen=True)
class Normal:
    """A statistic of the normal photographs of a fit.

    Attributes:
        values: of them, ascending; of many what lies evenly between them by rank.
        number: how many different photographs they stand for.
        persistence: how much of a value the next photograph keeps, see :func:`persistence_of`.
        tolerance: differences up to it are no drift, in the unit of the values.
        origin: of angles in degrees: their mean direction, from which values are counted.
    """

    values: Sequence[float]
    number: int
    persistence: float = 0.0
    tolerance: float = 0.0
    origin: float | None = None
    median: float = field(init=False, compare=False)
    scale: float = field(init=False, compare=False)

    def __post_init__(self) -> None:
        low, high = np.quantile(self.values, [0.25, 0.75]).tolist()
        # The larger of two: heavy tails and narrow middles alike must not make values extreme.
        scale = max((high - low) / 1.349, float(np.std(self.values)))
        object.__setattr__(self, "median", float(median(self.values)))
        object.__setattr__(self, "scale", scale)

    @classmethod
    def of(
        cls, values: Sequence[float], tolerance: float = 0.0, *, angle: bool = False
    ) -> Normal | None:
        """Of the photographs in their order; None where they are too few."""
        known = [value for value in values if math.isfinite(value)]
        if len(known) < LEAST:
            return None
        origin = None
        if angle:
            turned = np.exp(1j * np.deg2rad(known)).mean()
            origin = float(f"{np.rad2deg(np.angle(turned)):.6g}")
            known = [around(value, origin) for value in known]
        row = np.array(known)
        steps, variance = float(np.square(np.diff(row)).mean()), float(row.var(ddof=1))
        kept = min(_KEPT, len(row))
        ranks = np.linspace(0, len(row) - 1, kept).round().astype(int)
        values = [float(f"{value:.6g}") for value in np.sort(row)[ranks]]
        persistence = round(persistence_of(steps, variance), 3)
        return cls(values, len(row), persistence, float(f"{tolerance:.6g}"), origin)

    def record(self) -> dict[str, Any]:
        """As the metadata of a model keeps it, JSON-able."""
        plain = {
            "values": list(self.values),
            "number": self.number,
            "persistence": self.persistence,
            "tolerance": self.tolerance,
        }
        return plain if self.origin is None else {**plain, "origin": self.origin}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Normal:
        """What :meth:`record` gave."""
        return cls(**record)

    def placed(self, value: float) -> float:
        """A value as :attr:`values` are counted."""
        return value if self.origin is None else around(value, self.origin)

    def rank(self, value: float) -> float:
        """The share of the normal values below, 0 to 1; of equal ones half."""
        below = bisect.bisect_left(self.values, value)
        return (below + bisect.bisect_right(self.values, value)) / (2 * len(self.values))

    def score(self, value: float, farthest: float = FARTHEST) -> float:
        """The normal score of a value: the standard normal quantile of its rank among the normal
        values, beyond them further by their standard deviation; at most ``farthest`` from 0.

        Ranks make it the same for every distribution, tolerant of outliers and free of the unit.
        """
        number = len(self.values)
        quantile = (self.rank(value) * number + 0.5) / (number + 1)
        score = _STANDARD.inv_cdf(quantile)
        beyond = max(value - self.values[-1], 0.0) + min(value - self.values[0], 0.0)
        if beyond:
            score = (
                score + beyond / self.scale if self.scale > 0 else math.copysign(math.inf, beyond)
            )
        return min(farthest, max(-farthest, score))


def around(degrees: float, origin: float) -> float:
    """The angle from ``origin``, in -180 to 180 degrees."""
    return (degrees - origin + 180.0) % 360.0 - 180.0
