"""One statistic of a line beside that of the normal photographs: two cumulative sums."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, median, variance

from fastalign.drift.cusum import ALLOWANCE, corrected, limit_for
from fastalign.drift.normal import FARTHEST, Normal, inflation, persistence_of

# Photographs that the size of a drift is the median of.
_RECENT = 25
# The memory of a line reaches back so far; what the normal photographs say counts as so many.
_WINDOW, _PRIOR = 150, 30
# What happened since a change tells how much each photograph keeps of the last: of so many at most
# and at least, without the first ones, which may lie before it.
_LOOKED_AT, _TELLING, _SKIPPED = 50, 6, 2


@dataclass
class _Line:
    """How the scores of a line vary, with what the normal photographs say to begin with."""

    weight: float
    squared_steps: float
    variance: float = 1.0
    _mean: float = 0.0
    _last: float = 0.0
    _known: int = 0

    def centre(self, scores: list[float]) -> None:
        """The line lies at these scores: where says nothing of how it varies."""
        self._mean, self._known = fmean(scores), len(scores)

    def add(self, score: float) -> None:
        if not self._known:
            self.centre([score])
        else:
            share = 1 / min(_WINDOW, self.weight + 1)
            self.squared_steps += share * ((score - self._last) ** 2 - self.squared_steps)
            # As Welford does, so that a mean of few does not count as variance.
            before = score - self._mean
            self._mean += before / min(_WINDOW, self._known + 1)
            self.variance += share * (before * (score - self._mean) - self.variance)
            self._known += 1
            self.weight += 1
        self._last = score

    @property
    def inflation(self) -> float:
        return inflation(persistence_of(self.squared_steps, self.variance))


@dataclass
class Side:
    """One direction of a statistic.

    Attributes:
        standing: whether a change is told of.
        since: the first photograph after the change, its name and number.
        photographs: how many there were since.
    """

    standing: bool = False
    since: tuple[str, int] = ("", 0)
    photographs: int = 0
    sum: float = 0.0
    inflation: float = 1.0

    def begin(self, name: str, number: int, inflation: float) -> None:
        """The sum leaves 0 with this photograph."""
        self.since, self.photographs, self.inflation = (name, number), 0, inflation


@dataclass(frozen=True)
class Shift:
    """How a statistic lies now beside the normal photographs.

    Attributes:
        upward: the direction.
        value: the median of the last photographs since the change.
        normal: that of the normal photographs.
        rank: the share of the normal values below ``value``.
        mean: that of the same photographs.
    """

    upward: bool
    value: float
    normal: float
    rank: float
    mean: float


@dataclass
class Track:
    """Both directions of one statistic.

    The sums take normal scores. Their limit follows from the rate of false alarms, and from what
    real statistics do to it:

    - values that keep part of the last one (persistence) make sums vary more, by ``inflation``: the
      limit grows by as much. It is that of the normal photographs in their order, then of the line,
      as it was when the sum left 0, or that since, whichever is larger, so that a sudden change
      does not pass for persistence.
    - the normal photographs are a sample, and their mean is off by a standard deviation of
      ``sqrt(inflation / number)``. A sum with a mean off by ``e`` raises ``exp(2 b e)`` times as
      many false alarms, ``b`` being the corrected limit; over the samples that is a factor of
      ``exp(2 b^2 inflation / number)``, and an allowance larger by ``b inflation / number`` takes
      off exactly that.

    Args:
        normal: of the normal photographs.
        interval: photographs between two false alarms of one direction on average.
    """

    normal: Normal
    interval: float
    sides: dict[bool, Side] = field(default_factory=lambda: {True: Side(), False: Side()})

    def __post_init__(self) -> None:
        spread = inflation(self.normal.persistence)
        self._limit = limit_for(self.interval)
        self._allowance = ALLOWANCE + corrected(self._limit) * spread / self.normal.number
        steps = 2 * (1 - self.normal.persistence)
        self._line = _Line(_PRIOR, steps)
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._scores: deque[float] = deque(maxlen=_LOOKED_AT)

    def add(self, name: str, number: int, value: float) -> list[tuple[bool, bool]]:
        """Take the value of the next photograph; directions whose state changed, each with whether
        it stands since."""
        if not math.isfinite(value):
            return []
        value = self.normal.placed(value)
        self._recent.append(value)
        self._scores.append(self.normal.score(value))
        changed = []
        for upward, side in self.sides.items():
            sign = 1 if upward else -1
            if side.sum <= 0:
                side.begin(name, number, self._line.inflation)
            # One photograph is the same share of the limit, whatever that is.
            farthest = FARTHEST * side.inflation
            score = sign * self.normal.score(value - sign * self.normal.tolerance, farthest)
            side.photographs += 1
            side.sum = max(0.0, side.sum + score - self._allowance)
            if side.sum >= self._limit * side.inflation:
                limit = self._limit * max(side.inflation, self._inflation_since(side))
                side.sum = min(side.sum, limit)
                if side.sum >= limit and not side.standing:
                    side.standing = True
                    changed.append((upward, True))
            elif side.standing and side.sum <= 0:
                side.standing = False
                changed.append((upward, False))
        self._line.add(self._scores[-1])
        if changed:
            self._line.centre(list(self._scores)[-_TELLING:])
        return self._one_way(changed)

    def _inflation_since(self, side: Side) -> float:
        """Of the scores since a change, around their own mean."""
        number = side.photographs - max(_SKIPPED, side.photographs // 4)
        if number < _TELLING:
            return 1.0
        scores = list(self._scores)[-number:]
        steps = fmean((after - before) ** 2 for before, after in pairwise(scores))
        return inflation(persistence_of(steps, variance(scores)))

    def _one_way(self, changed: list[tuple[bool, bool]]) -> list[tuple[bool, bool]]:
        """A change in one direction ends that in the other."""
        for upward, stands in list(changed):
            other = self.sides[not upward]
            if stands and other.standing:
                other.standing, other.sum = False, 0.0
                changed.insert(0, (not upward, False))
        return changed

    def shift(self, upward: bool) -> Shift:
        """How the statistic lies since the change in one direction."""
        side = self.sides[upward]
        values = list(self._recent)[-max(1, side.photographs) :]
        value = median(values)
        mean = sum(values) / len(values)
        return Shift(upward, value, self.normal.median, self.normal.rank(value), mean)
