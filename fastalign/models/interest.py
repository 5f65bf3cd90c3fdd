"""Regions of interest of a fitted model: what is known of them, and their thresholds. Ours.

Each region has a threshold by the rule of the fit, from the same images. Where there are several,
the values of each are divided by its threshold, so that 1 is the threshold of all: an image is an
anomaly where any region is past its own, and its score says how far.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fastalign.errors import ConfigError
from fastalign.models.record import FitRecord
from fastalign.models.rooms import Rooms
from fastalign.models.thresholds import Change, kept_scores, resolve

# Of the thresholds of several regions, none is below this share of the largest.
_LEAST = 1e-6


@dataclass(frozen=True)
class Interest:
    """What is known of the regions of interest of a model.

    Attributes:
        names: of the regions.
        shares: of the part's frame that each takes.
        fitted: the threshold of each as it was derived, in the unit of the distances; None: there
            is none.
        thresholds: the same after changes.
        scores: of normal images, a row for each with the score of each region, in that unit; None
            where an image shows nothing of it.
        of: what images these are, in words.
        before: what the record said of the whole part, and its ``thresholds``.
    """

    names: Sequence[str]
    shares: Sequence[float]
    fitted: Sequence[float | None]
    thresholds: Sequence[float | None]
    scores: Sequence[Sequence[float | None]]
    of: str
    before: Mapping[str, Any]

    def record(self) -> dict[str, Any]:
        """As the metadata of a model keeps it, JSON-able."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any] | None) -> Interest | None:
        """What :meth:`record` gave; of None nothing is judged by regions."""
        return None if record is None else cls(**record)

    @property
    def gains(self) -> Tensor:
        """What the values of each region are multiplied with, ``[R]`` float32."""
        known = [threshold for threshold in self.thresholds if threshold is not None]
        if len(self.names) == 1 or len(known) < len(self.names):
            return torch.ones(len(self.names))
        least = max(_LEAST * max(known), torch.finfo(torch.float32).tiny)
        return torch.tensor([1 / max(threshold, least) for threshold in known]).float()

    @property
    def threshold(self) -> float:
        """Of images: that of one region, and 1 of several; NaN where not each region has one."""
        if None in self.thresholds:
            return math.nan
        return 1.0 if len(self.names) > 1 else float(self.thresholds[0] or 0.0)

    def source(self, quantile: float) -> str:
        """Where it comes from, in words, by the quantile of the fit."""
        if None in self.thresholds:
            return "none: fitted without normal validation images"
        where = "in the region of interest"
        if len(self.names) > 1:
            where = "in each region of interest, whose threshold is 1"
        if not self.of:
            return f"set by hand {where}"
        return f"quantile {quantile:g} of {self.of}, as of the whole part, {where}"

    def normal_scores(self) -> dict[str, Any] | None:
        """Scores of normal images as :class:`FitRecord` keeps them, those that show all regions."""
        gains = self.gains.tolist()
        whole = [
            max(score * gain for score, gain in zip(row, gains, strict=True) if score is not None)
            for row in self.scores
            if None not in row
        ]
        return {"of": self.of, "scores": kept_scores(whole)} if whole else None


def several_regions(record: FitRecord, name: str) -> bool:
    """Whether a model has other regions of interest beside the one of this name: the threshold of
    one alone is that of the model.

    Raises:
        ConfigError: there is no such region.
    """
    interest = Interest.from_record(record.regions_of_interest)
    if interest is None or name not in interest.names:
        have = "the model has none" if interest is None else f"it has {', '.join(interest.names)}"
        raise ConfigError(f"region {name!r}: no region of interest of the model; {have}.")
    return len(interest.names) > 1


def change_region(rooms: Rooms, record: FitRecord, name: str, change: Change | None) -> FitRecord:
    """Change the threshold of one of several regions; None: that of the fit. Returns the record
    that says so. Without those of all regions there is none of images.

    Raises:
        ConfigError: as :func:`fastalign.models.thresholds.resolve`, or a threshold, of the region
            or of all of them, that is not above 0.
    """
    interest = Interest.from_record(record.regions_of_interest)
    assert interest is not None
    before = interest.threshold
    # The threshold of images is a factor of that of each region.
    factor = float(rooms.maps.image_threshold) if math.isfinite(before) else 1.0
    if factor <= 0:
        raise ConfigError(
            f"threshold of region {name!r}: that of images, {factor:g}, is a factor of it and not "
            "above 0; set that one first."
        )
    place = list(interest.names).index(name)
    value = interest.fitted[place]
    if change is not None:
        known = [row[place] for row in interest.scores if row[place] is not None]
        own = replace(
            record,
            normal_scores={"of": interest.of, "scores": sorted(known)} if known else None,
        )
        value, _ = resolve(change, own)
    if value is not None and value <= 0:
        raise ConfigError(f"threshold of region {name!r}: {value:g} is not above 0.")
    thresholds = list(interest.thresholds)
    thresholds[place] = None if value is None else value / factor
    interest = replace(interest, thresholds=thresholds)
    labels = None if rooms.maps.regions is None else rooms.maps.regions.labels
    rooms.maps.interest(labels, interest.gains)
    common = interest.threshold
    if math.isfinite(common) != math.isfinite(before):
        rooms.maps.set_thresholds(common, common)
        record = replace(
            record,
            threshold_source=interest.source(rooms.config.threshold_quantile),
            pixel_threshold_source=None,
            fitted_thresholds=None,
        )
    return replace(
        record, regions_of_interest=interest.record(), normal_scores=interest.normal_scores()
    )


def in_units_of(record: FitRecord, other: FitRecord) -> FitRecord:
    """A record whose normal scores are in units of the thresholds that the regions of another have,
    where several are judged."""
    own, others = (Interest.from_record(one.regions_of_interest) for one in (record, other))
    if own is None or others is None:
        return record
    scores = replace(own, thresholds=others.thresholds).normal_scores()
    return replace(record, normal_scores=scores)
