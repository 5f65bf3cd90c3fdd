"""How figures grow with the number of training photographs, and what more would bring. Ours.

The share of pairs of a good and an anomalous image that are ranked wrongly, 1 - AUROC, is taken to
fall by the same factor with every doubling, as errors of learned models do over a range of sizes
(Hestness et al., "Deep Learning Scaling is Predictable, Empirically", arXiv 1712.00409). The
interval comes from the test images drawn again with replacement, each class by itself, and from the
draws of training photographs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

_STEPS = (1, 2, 5)
_LEAST = 5
_MOST_DRAWS = 5
# A doubling is told from one that is near it, and a gain from none.
_NEAR = 1.5
_LITTLE = 0.01
_RESAMPLES = 1000
# Figures by size, and their decimals in words.
_FIGURES = {"image_auroc": 3, "aupro_30": 3, "mistakes": 1, "false_alarms": 1, "missed": 1}


@dataclass(frozen=True)
class CurvePoint:
    """One fit, and its figures on the test images.

    Attributes:
        photographs: so many were given to the fit, those kept for its thresholds included.
        draw: which draw of them, from 1.
        image_auroc, aupro_30: None where they cannot be computed.
        threshold: stored by the fit; None: none, and no mistakes.
        false_alarms, missed: at that threshold, of ``good`` and ``anomalous`` that have a verdict.
        unsure: images without one.
        seconds: of fitting and scoring; None: the model that is evaluated.
        scores: of the test images, None for one that is unsure.
        reason: why there is no model; empty: there is one.
    """

    photographs: int
    draw: int
    image_auroc: float | None = None
    aupro_30: float | None = None
    threshold: float | None = None
    false_alarms: int = 0
    good: int = 0
    missed: int = 0
    anomalous: int = 0
    unsure: int = 0
    seconds: float | None = None
    scores: tuple[float | None, ...] = ()
    reason: str = ""

    @property
    def mistakes(self) -> int | None:
        """Of both kinds; None without a threshold."""
        return None if self.threshold is None else self.false_alarms + self.missed


@dataclass(frozen=True)
class LearningCurve:
    """All fits of a curve.

    Attributes:
        points: in the order in which they were made.
        outlook: what another doubling would bring, in a sentence.
        gain: of the image AUROC by it, with the interval of 95 % ``low`` to ``high``; None where
            it cannot be told.
        notes: what the reader has to know besides.
    """

    points: tuple[CurvePoint, ...]
    outlook: str
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    notes: tuple[str, ...] = ()

    def sizes(self) -> list[dict[str, Any]]:
        """By number of photographs: how many fits, and of each figure mean, least and most."""
        found = []
        for size in sorted({point.photographs for point in self.points}):
            some = [one for one in self.points if one.photographs == size and not one.reason]
            row: dict[str, Any] = {"photographs": size, "fits": len(some)}
            for name in _FIGURES:
                values = [getattr(one, name) for one in some if _has(one, name)]
                known = [float(value) for value in values if value is not None]
                row[name] = (fmean(known), min(known), max(known)) if known else None
            found.append(row)
        return found

    def rows(self) -> list[dict[str, str]]:
        """The rows of :meth:`sizes` in words; a dash where a figure is not known."""
        return [
            {name: _text(value, _FIGURES.get(name, 0)) for name, value in row.items()}
            for row in self.sizes()
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain data, without the scores."""
        points = [{k: v for k, v in asdict(one).items() if k != "scores"} for one in self.points]
        return {
            "outlook": self.outlook,
            "gain_of_image_auroc_by_doubling": self.gain,
            "interval_95": None if self.low is None else [self.low, self.high],
            "sizes": self.sizes(),
            "fits": points,
            "notes": list(self.notes),
        }


def _text(value: int | tuple[float, float, float] | None, digits: int) -> str:
    """A number, or mean, least and most."""
    if value is None or isinstance(value, int):
        return "–" if value is None else str(value)
    mean, least, most = (f"{one:.{digits}f}".removesuffix(".0") for one in value)
    return mean if least == most else f"{mean} ({least}–{most})"


def _has(point: CurvePoint, name: str) -> bool:
    """Whether a count means anything: without a threshold there are no mistakes."""
    return name not in ("false_alarms", "missed") or point.threshold is not None


def plan(number: int, seed: int) -> list[tuple[int, int, list[int]]]:
    """The fits of a curve over ``number`` photographs: size, draw, and positions, ascending.

    Sizes are 5, 10, 20, 50 and so on, and all. The subsets of a draw are nested. There are as many
    draws of a size as would take in all photographs once, at least 2 and at most 5, and one of all.
    First comes the first draw of every size, so that what is cut short is whole.
    """
    sizes, power = [], 1
    while power < number:
        sizes += [step * power for step in _STEPS if _LEAST <= step * power < number]
        power *= 10
    found = []
    for draw in range(1, _MOST_DRAWS + 1):
        order = sorted(range(number), key=partial(_rank, seed, draw))
        for size in sizes:
            if draw <= min(_MOST_DRAWS, max(2, round(number / size))):
                found.append((size, draw, sorted(order[:size])))
        if draw == 1:
            found.append((number, 1, list(range(number))))
    return found


def _rank(seed: int, draw: int, index: int) -> bytes:
    return hashlib.sha256(f"{seed}:{draw}:{index}".encode()).digest()


def conclude_curve(
    points: Sequence[CurvePoint], labels: Sequence[int], notes: Sequence[str] = ()
) -> LearningCurve:
    """The curve of these points, with what another doubling would bring.

    Args:
        points: of one or several sizes.
        labels: 0 good, 1 anomalous, of the images that the points' ``scores`` are of.
        notes: as in the curve.
    """
    made = [one for one in points if not one.reason and one.image_auroc is not None]

    def told(
        sentence: str, gain: float | None = None, interval: tuple[float, float] | None = None
    ) -> LearningCurve:
        low, high = interval or (None, None)
        return LearningCurve(tuple(points), sentence, gain, low, high, tuple(notes))

    truth = np.asarray(labels)
    good, anomalous = int((truth == 0).sum()), int((truth == 1).sum())
    if not made:
        return told("No figure tells what more photographs would bring.")
    number = max(one.photographs for one in made)
    smaller = [one.photographs for one in made if one.photographs * _NEAR <= number]
    if not smaller:
        return told(
            "The numbers of photographs that were tried lie too near each other to tell what more "
            "would bring."
        )
    less = max(smaller)
    last = next(one for one in made if one.photographs == number)
    before = [one for one in made if one.photographs == less]
    ranked, earlier = _Ranked(last, truth), [_Ranked(one, truth) for one in before]
    test = f"{good} good and {anomalous} anomalous test photographs"
    now = ranked.auroc()
    if now == 1:
        return told(
            f"Not enough test photographs to tell: with {number} photographs the {test} are told "
            f"apart without a mistake, so that they cannot show what more would bring"
            f"{_pixels(last, before)}."
        )
    doublings = math.log2(number / less)
    gain = _gain(1 - fmean(one.auroc() for one in earlier), 1 - now, doublings)
    low, high = _interval(ranked, earlier, truth, doublings)
    grew = (
        f"the image AUROC would change by {gain:+.3f} from {now:.3f} with another doubling, to "
        f"{2 * number} photographs (95 % between {low:+.3f} and {high:+.3f}), if it goes on as "
        f"from {less} to {number}"
    )
    if high < _LITTLE:
        sentence = f"Another doubling would bring little: {grew}."
    elif low > 0:
        sentence = f"More photographs would help: {grew}."
    else:
        sentence = f"Not enough test photographs to tell: by the {test} {grew}."
    return told(sentence, gain, (low, high))


def _pixels(last: CurvePoint, before: Sequence[CurvePoint]) -> str:
    """What became of the AUPRO meanwhile, where there are masks."""
    values = [one.aupro_30 for one in before if one.aupro_30 is not None]
    if last.aupro_30 is None or not values:
        return ""
    return (
        f"; the AUPRO went from {fmean(values):.3f} with {before[0].photographs} "
        f"photographs to {last.aupro_30:.3f}"
    )


def _gain(before: float, now: float, doublings: float) -> float:
    """What the share of wrong pairs would lose by one more doubling."""
    if before <= 0:
        return (before - now) / doublings
    return float(now * (1 - (now / before) ** (1 / doublings)))


def _interval(
    last: _Ranked, before: Sequence[_Ranked], truth: npt.NDArray[Any], doublings: float
) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    classes = [np.flatnonzero(truth == label) for label in (0, 1)]
    gains = []
    for _ in range(_RESAMPLES):
        drawn = np.concatenate([rng.choice(places, len(places)) for places in classes])
        weights = np.bincount(drawn, minlength=len(truth)).astype(np.float64)
        other = before[int(rng.integers(len(before)))]
        now, then = last.auroc(weights), other.auroc(weights)
        if math.isfinite(now) and math.isfinite(then):
            gains.append(_gain(1 - then, 1 - now, doublings))
    low, high = np.quantile(gains, (0.025, 0.975)).tolist() if gains else (-1.0, 1.0)
    return low, high


class _Ranked:
    """The scores of a point in order, for AUROCs of many weights.

    Args:
        point: the fit.
        truth: labels ``[N]`` of the images that its scores are of.
    """

    def __init__(self, point: CurvePoint, truth: npt.NDArray[Any]) -> None:
        scores = np.array([math.nan if one is None else one for one in point.scores])
        self._known = np.isfinite(scores)
        _, self._place = np.unique(scores[self._known], return_inverse=True)
        self._classes = [truth[self._known] == label for label in (0, 1)]

    def auroc(self, weights: npt.NDArray[np.float64] | None = None) -> float:
        """AUROC, images counting by their weights ``[N]``; NaN without both classes."""
        weights = (np.ones(len(self._known)) if weights is None else weights)[self._known]
        good, anomalous = (np.bincount(self._place, weights * of) for of in self._classes)
        total = good.sum() * anomalous.sum()
        below = np.cumsum(good) - good / 2
        return float((below * anomalous).sum() / total) if total else math.nan
