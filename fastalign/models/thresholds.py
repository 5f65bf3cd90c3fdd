"""Thresholds that are changed after a fit, and what is said of where they come from."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from torch import Tensor

from fastalign.errors import ConfigError
from fastalign.models.record import FitRecord
from fastalign.numeric import real_number

# Scores that a model keeps of its normal images at most: what a quantile needs of many.
_KEPT = 1000
# Scores that quartiles say something of.
_LEAST_OF_QUARTILES = 8
_KINDS = ("image", "pixel")


def kept_scores(scores: Sequence[float]) -> list[float]:
    """Scores of normal images as a record keeps them: ascending, in six digits, the least and the
    largest and what lies evenly between them by rank."""
    ranked = sorted(scores)
    ranks = np.linspace(0, len(ranked) - 1, min(_KEPT, len(ranked))).round().astype(int)
    return [float(f"{ranked[rank]:.6g}") for rank in ranks]


def one_of_twins(scores: Tensor, groups: Sequence[int]) -> tuple[Tensor, int]:
    """The largest score of each group of scores ``[N]``, and how many scores are left out as not
    finite."""
    best: dict[int, float] = {}
    lost = 0
    for score, group in zip(scores.tolist(), groups, strict=True):
        if math.isfinite(score):
            best[group] = max(score, best.get(group, score))
        else:
            lost += 1
    return scores.new_tensor(list(best.values())), lost


def ordinary(scores: Tensor) -> float | None:
    """The score of an ordinary normal image, of scores ``[N]``: their median; None: there is none,
    or it is 0."""
    if not len(scores):
        return None
    middle = float(scores.double().median())
    return middle if middle > 0 and math.isfinite(middle) else None


def limit_of(scores: Sequence[float], quantile: float) -> tuple[float, str]:
    """The score that normal images stay below, of those of some, and the rule in words.

    The quantile of the scores. Where they are too few to have such a quantile, so that it lies
    between the two largest, an unusual one among them sets it; then the quantile of a normal
    distribution of their logarithms, by median and quartiles, if that is smaller [ours].
    """
    found = np.array(scores, dtype=np.float64)
    value = float(np.quantile(found, quantile))
    rule = f"quantile {quantile:g}"
    few = 0.5 < quantile < 1 and len(found) >= _LEAST_OF_QUARTILES
    if few and (1 - quantile) * (len(found) - 1) < 1 and found.min() > 0:
        low, middle, high = np.quantile(np.log(found), (0.25, 0.5, 0.75))
        normal = NormalDist()
        width = (high - low) / (2 * normal.inv_cdf(0.75))
        likely = math.exp(middle + width * normal.inv_cdf(quantile))
        if likely < value:
            return likely, f"{rule} by median and quartiles of the logarithms"
    return value, rule


def whole_record(distances: Tensor, residual: float) -> dict[str, float] | None:
    """The largest whole distance ``[N]`` of normal images and the largest residual of their
    alignment (infinite: there is none), as :class:`FitRecord` keeps them; None: nothing is known.
    """
    known = distances[distances.isfinite()]
    if not len(known):
        return None
    found = {"distance": float(known.max())}
    return {**found, "residual": residual} if math.isfinite(residual) else found


@dataclass(frozen=True)
class Change:
    """A threshold that is wanted: one of the three; all None: that of the fit.

    Attributes:
        value: the threshold itself.
        quantile: of the normal scores that the model keeps.
        false_alarms: share of normal images that may lie above it, 0 to 1.
    """

    value: float | None = None
    quantile: float | None = None
    false_alarms: float | None = None

    def __post_init__(self) -> None:
        given = [self.value, self.quantile, self.false_alarms]
        if sum(item is not None for item in given) > 1:
            raise ConfigError("threshold: give one of a value, a quantile and false alarms.")


def resolve(change: Change, record: FitRecord) -> tuple[float, str]:
    """The threshold of a change, and its source in words.

    Raises:
        ConfigError: no such number, or the model keeps no scores of normal images.
    """
    if change.value is not None:
        return real_number("threshold", change.value), "set by hand"
    normal = record.normal_scores
    if not normal:
        raise ConfigError(
            "the model keeps no scores of normal images, since it was fitted without normal "
            "validation images or by an earlier version: give the threshold as a value, or fit the "
            "model again."
        )
    if change.false_alarms is not None:
        share = real_number("false alarms", change.false_alarms, 0, 1)
        quantile, asked = 1 - share, f"for {100 * share:.4g} % false alarms, "
    else:
        quantile, asked = real_number("quantile", change.quantile, 0, 1), ""
    value = float(np.quantile(np.array(normal["scores"]), quantile))
    return value, f"{asked}quantile {quantile:.6g} of {normal['of']}"


def above(record: FitRecord, threshold: float) -> tuple[int, int] | None:
    """How many of the kept normal scores lie above a threshold, and how many there are; None where
    none are kept."""
    scores = (record.normal_scores or {}).get("scores")
    if not scores or not math.isfinite(threshold):
        return None
    return len(scores) - bisect.bisect_right(scores, threshold), len(scores)


def changed(
    record: FitRecord,
    stored: tuple[float, float],
    change: Change | None,
    *,
    image: bool,
    pixel: bool,
) -> tuple[tuple[float, float], FitRecord]:
    """The thresholds of images and pixels after a change, and the record that says so.

    Args:
        record: what is known about the fit.
        stored: the two as they are, NaN for none.
        change: None: back to those of the fit.
        image: the change is for images.
        pixel: the change is for pixels.

    Raises:
        ConfigError: as :func:`resolve`.
    """
    sources = list(_sources(record))
    fitted = record.fitted_thresholds or _fitted(stored, record)
    values, of_fit = list(stored), _sources_of_fit(fitted)
    for index, (name, wanted) in enumerate(zip(_KINDS, (image, pixel), strict=True)):
        if not wanted:
            continue
        before = fitted[name]
        if change is None:
            values[index] = math.nan if before is None else float(before)
            sources[index] = of_fit[index]
            continue
        values[index], words = resolve(change, record)
        gave = "which gave none" if before is None else f"which gave {before:.6g}"
        sources[index] = f"{words}, after the fit, {gave} ({of_fit[index]})"
    kept = None if tuple(sources) == of_fit else fitted
    record = _with_sources(replace(record, fitted_thresholds=kept), sources)
    return (values[0], values[1]), record


def refitted(
    before: FitRecord,
    stored: tuple[float, float],
    record: FitRecord,
    fitted: tuple[float, float],
    *,
    keep: bool = False,
) -> tuple[tuple[float, float], FitRecord]:
    """The thresholds of images and pixels where those of the fit are others, and the record that
    says so: each that was changed since the fit stays.

    Args:
        before: what was known, with the changes.
        stored: the two as they are, NaN for none.
        record: what is known of those of the fit.
        fitted: these.
        keep: all stay.
    """
    if before.fitted_thresholds is not None:
        record = replace(record, fitted_thresholds=_fitted(fitted, record))
        of_fit = _sources_of_fit(before.fitted_thresholds)
        stays = [keep or said != fits for said, fits in zip(_sources(before), of_fit, strict=True)]
    elif keep:
        stays = [True, True]
    else:
        return fitted, record
    image, pixel = (
        old if stay else new for stay, old, new in zip(stays, stored, fitted, strict=True)
    )
    pairs = zip(stays, _sources(before), _sources(record), strict=True)
    sources = [old if stay else new for stay, old, new in pairs]
    return (image, pixel), _with_sources(record, sources)


def fitted_thresholds(
    record: FitRecord, stored: tuple[float, float]
) -> tuple[tuple[float, float], str | None]:
    """The thresholds of images and pixels of the fit, NaN for none, where those in force are
    ``stored``, and the source of that of pixels; None: that of images."""
    fitted = record.fitted_thresholds
    if fitted is None:
        return stored, record.pixel_threshold_source
    image, pixel = (math.nan if fitted[of] is None else float(fitted[of]) for of in _KINDS)
    return (image, pixel), fitted.get("pixel_source")


def _fitted(values: tuple[float, float], record: FitRecord) -> dict[str, Any]:
    """As a record keeps thresholds of the fit, and their sources, which are those of ``record``."""
    image, pixel = _sources(record)
    found = {"image": _known(values[0]), "pixel": _known(values[1]), "source": image}
    return found if pixel == image else {**found, "pixel_source": pixel}


def _sources(record: FitRecord) -> tuple[str, str]:
    source = record.threshold_source or "unknown"
    return source, record.pixel_threshold_source or source


def _sources_of_fit(fitted: Mapping[str, Any]) -> tuple[str, str]:
    source = str(fitted["source"])
    return source, str(fitted.get("pixel_source") or source)


def _with_sources(record: FitRecord, sources: Sequence[str]) -> FitRecord:
    image, pixel = sources
    pixel_source = None if pixel == image else pixel
    return replace(record, threshold_source=image, pixel_threshold_source=pixel_source)


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
