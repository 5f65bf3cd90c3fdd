"""Which differences between two runs exceed the noise.

Interleaved (:func:`paired`): two processes take turns, a third runs the first one's code once more
as a control. A difference counts where the confidence interval of the median ratio of a pair lies
wholly beyond what the control shows between equal code.

Two stored runs (:func:`stored`): nothing was interleaved, so what did not change between them, the
baselines of the same case, says how much the machine differed.

Intervals of a median are those of order statistics: no assumption on how times are distributed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from fastalign.bench.measure import OURS

LEVEL = 0.99
FLOOR = 0.01  # a difference below a percent is none


@dataclass(frozen=True)
class Difference:
    """``ratio``: the baseline's time over ours, so above 1 we became faster."""

    case: str
    contestant: str
    ratio: float
    low: float
    high: float
    noise: float

    @property
    def exceeds(self) -> bool:
        bound = 1 + self.noise
        return self.low > bound or self.high < 1 / bound

    @property
    def verdict(self) -> str:
        if not self.exceeds:
            return "within the noise"
        return "faster" if self.ratio > 1 else "slower"


def median_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Interval that holds the true median with at least this probability, by order statistics.

    Too few values for the level: from minus to plus infinity, which nothing exceeds.
    """
    ordered, count = sorted(values), len(values)
    outside, rank = 0.0, -1
    while rank + 1 < count / 2:
        outside += math.comb(count, rank + 1) / 2**count
        if 2 * outside > 1 - level:
            break
        rank += 1
    if rank < 0:
        return -math.inf, math.inf
    return ordered[rank], ordered[count - 1 - rank]


def paired(
    case: str,
    contestant: str,
    ours: Sequence[float],
    baseline: Sequence[float],
    control: Sequence[float],
) -> Difference:
    """Times of turns taken together: ``ours[i]``, ``baseline[i]`` and ``control[i]`` are of one."""
    logs = [math.log(b / a) for a, b in zip(ours, baseline, strict=True)]
    equal = [math.log(c / a) for a, c in zip(ours, control, strict=True)]
    low, high = median_interval(logs)
    shown = max(abs(bound) for bound in median_interval(equal))
    noise = max(FLOOR, math.expm1(min(shown, 700.0)))
    return Difference(case, contestant, _exp(median(logs)), _exp(low), _exp(high), noise)


def stored(new: dict[str, Any], old: dict[str, Any]) -> list[Difference]:
    """The differences of two documents, over the cases and contestants that both have."""
    before = {
        (row["case"], row.get("calls_per_sample", 1)): row["contestants"] for row in old["rows"]
    }
    found = []
    for row in new["rows"]:
        theirs = before.get((row["case"], row.get("calls_per_sample", 1)), {})
        both = {
            name: (entry["samples"], theirs[name]["samples"])
            for name, entry in row["contestants"].items()
            if "samples" in entry and "samples" in theirs.get(name, {})
        }
        unchanged = [
            abs(math.log(median(b) / median(a)))
            for name, (a, b) in both.items()
            if not name.startswith(OURS)
        ]
        # Without a baseline nothing is known of the machine.
        noise = max(FLOOR, math.expm1(max(unchanged))) if unchanged else math.inf
        for name, (a, b) in both.items():
            if name.startswith(OURS):
                (low, high), (low_b, high_b) = median_interval(a), median_interval(b)
                bounds = (low_b / high, high_b / low) if low > 0 < low_b else (0.0, math.inf)
                ratio = median(b) / median(a)
                found.append(Difference(row["case"], name, ratio, *bounds, noise))
    return found


def as_rows(differences: Sequence[Difference]) -> list[dict[str, Any]]:
    """For JSON, whose numbers are finite."""

    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return [
        {
            "case": one.case,
            "contestant": one.contestant,
            "ratio": finite(one.ratio),
            "low": finite(one.low),
            "high": finite(one.high),
            "noise": finite(one.noise),
            "verdict": one.verdict,
        }
        for one in differences
    ]


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
