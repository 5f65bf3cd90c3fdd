"""Let a fitted model judge regions of interest: their thresholds, and what is asked of photographs,
from distances of normal images. Ours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastalign.errors import ConfigError, InputError
from fastalign.models.conditions import with_coverage
from fastalign.models.evidence import Evidence, Usual
from fastalign.models.interest import Interest
from fastalign.models.normal import NormalDistances
from fastalign.models.record import FitRecord
from fastalign.models.region_maps import RegionMaps
from fastalign.models.rooms import Rooms
from fastalign.models.thresholds import limit_of, one_of_twins, whole_record
from fastalign.models.whole import whole_distance
from fastalign.roi import RegionsOfInterest
from fastalign.words import count

# Poses whose coverage is worked out at once.
_BATCH = 64
# What a record says of the whole part, and says of regions where there are some.
_OF_WHOLE = (
    "threshold_source",
    "pixel_threshold_source",
    "fitted_thresholds",
    "normal_scores",
    "evidence",
    "normal_whole",
    "normal_conditions",
    "warnings",
)


def judge_regions(rooms: Rooms, record: FitRecord, regions: RegionsOfInterest | None) -> FitRecord:
    """Let the rooms judge regions of the part's frame, or all of it; returns the record that says
    so. Thresholds that were changed are those of the fit again.

    Raises:
        InputError: a region that is too small, or that normal images show nothing of.
        ConfigError: the model does not keep what thresholds of regions are derived from.
    """
    maps = rooms.maps
    whole, limits = _of_whole(rooms, record)
    if regions is None:
        maps.interest(None)
        maps.set_thresholds(*limits)
        return whole
    regions = regions.at(rooms.config.image_size)
    labels = torch.from_numpy(regions.labels.copy())
    room = RegionMaps(labels, torch.ones(len(regions.names)), maps.size).to(rooms.density.device)
    for name, known in zip(regions.names, room.supported(rooms.density.support), strict=True):
        if not bool(known):
            raise InputError(
                f"regions of interest: region {name!r} lies where too few of the normal "
                "photographs show the part; draw it elsewhere, or leave it out."
            )
    normal = _kept(whole, limits)
    top_share, quantile = maps.top_share, rooms.config.threshold_quantile
    scores, wholes = _scores(rooms, room, normal, top_share)
    interest, lost = _derived(regions, normal, scores, quantile)
    interest = replace(
        interest,
        before={
            "thresholds": [value if math.isfinite(value) else None for value in limits],
            **{name: getattr(whole, name) for name in _OF_WHOLE},
        },
    )
    image, source = interest.threshold, interest.source(quantile)
    pixel, pixel_source = image, None
    if top_share > 0 and normal is not None and math.isfinite(image):
        peaks, _ = _scores(rooms, room, normal, 0.0)
        pixel, rule = _of_peaks(interest, peaks, normal, quantile)
        pixel_source = f"{rule} of the largest values of the maps of {interest.of}"
    maps.interest(labels, interest.gains)
    maps.set_thresholds(image, pixel)
    coverage = _coverage(rooms, room, normal)
    residual = (whole.normal_whole or {}).get("residual", math.inf)
    judged = replace(
        whole,
        regions_of_interest=interest.record(),
        threshold_source=source,
        pixel_threshold_source=pixel_source,
        fitted_thresholds=None,
        normal_scores=interest.normal_scores(),
        evidence=_evidence(whole, coverage, len(regions.names)),
        normal_conditions=with_coverage(whole.normal_conditions, coverage),
        normal_whole=whole_record(wholes, residual),
    )
    return judged if not lost else replace(judged, warnings=[*(judged.warnings or ()), lost])


def _of_whole(rooms: Rooms, record: FitRecord) -> tuple[FitRecord, tuple[float, float]]:
    """The record of the whole part, and its thresholds."""
    interest = Interest.from_record(record.regions_of_interest)
    if interest is None:
        return record, (float(rooms.maps.image_threshold), float(rooms.maps.pixel_threshold))
    before = dict(interest.before)
    image, pixel = (math.nan if value is None else value for value in before.pop("thresholds"))
    return replace(record, regions_of_interest=None, **before), (image, pixel)


def _kept(record: FitRecord, limits: tuple[float, float]) -> NormalDistances | None:
    if record.normal_distances is not None:
        return NormalDistances.from_record(record.normal_distances)
    if not any(map(math.isfinite, limits)) and not record.evidence:
        return None
    raise ConfigError(
        "the model does not keep the distances of its normal photographs, from which thresholds of "
        "regions follow (an earlier version fitted it, its images are too large or too many, or "
        "its density was changed since): fit it again with the regions, fastalign fit --roi."
    )


def _scores(
    rooms: Rooms, room: RegionMaps, normal: NormalDistances | None, top_share: float
) -> tuple[Tensor, Tensor]:
    """Of normal images the score of each region ``[M,R]`` by the largest values of this share, NaN
    where it is not seen, and :func:`whole_distance` ``[M]``, both float64 on the CPU."""
    number = 0 if normal is None else len(normal.distance)
    scores = torch.empty((number, len(room.gain)), dtype=torch.float64)
    wholes = torch.empty(number, dtype=torch.float64)
    if normal is None:
        return scores, wholes
    for index, (distance, theta, support) in enumerate(normal.each(rooms.density.device)):
        found = room(distance, theta, support, None, rooms.maps.sigma, top_share)
        seen = torch.where(found.seen, found.maps, torch.nan)
        scores[index] = torch.where(found.shown, found.scores, torch.nan)[0].double().cpu()
        wholes[index] = whole_distance(seen)[0].double().cpu()
    return scores, wholes


def _derived(
    regions: RegionsOfInterest, normal: NormalDistances | None, scores: Tensor, quantile: float
) -> tuple[Interest, str]:
    """The regions with their thresholds, and a warning; empty: none."""
    shares = list(regions.shares.values())
    number = len(regions.names)
    if normal is None or not len(scores):
        none = [None] * number
        return Interest(regions.names, shares, none, none, [], "", {}), ""
    found = []
    for name, own in zip(regions.names, scores.unbind(1), strict=True):
        distinct, _ = one_of_twins(own, normal.groups)
        if not len(distinct):
            raise InputError(
                f"regions of interest: no normal photograph shows anything of region {name!r}; "
                "draw it elsewhere, or leave it out."
            )
        found.append(limit_of(distinct.tolist(), quantile)[0])
    # Of twins the largest score of each region counts.
    rows: dict[int, list[float | None]] = {}
    for row, group in zip(scores.tolist(), normal.groups, strict=True):
        mine = [float(f"{score:.6g}") if math.isfinite(score) else None for score in row]
        rows[group] = [_larger(*pair) for pair in zip(mine, rows.get(group, mine), strict=True)]
    of = f"{count(len(rows), normal.kind)}{normal.alone}"
    lost = int(scores.isnan().any(1).sum())
    warning = ""
    if lost:
        warning = (
            f"{count(lost, 'normal image')} could not be judged, with no part in all thresholds: "
            "nothing of a region of interest is seen, or features are not finite."
        )
    return Interest(regions.names, shares, found, found, list(rows.values()), of, {}), warning


def _larger(one: float | None, other: float | None) -> float | None:
    known = [value for value in (one, other) if value is not None]
    return max(known, default=None)


def _of_peaks(
    interest: Interest, peaks: Tensor, normal: NormalDistances, quantile: float
) -> tuple[float, str]:
    """The threshold of pixels by the largest value of each region in normal images ``[M,R]``, NaN
    where it is not seen, and the rule in words."""
    values = torch.where(peaks.isnan(), -torch.inf, peaks * interest.gains)
    distinct, _ = one_of_twins(values.amax(1), normal.groups)
    return limit_of(distinct.tolist(), quantile)


def _coverage(rooms: Rooms, room: RegionMaps, normal: NormalDistances | None) -> list[float]:
    """The coverage of the regions in all normal images; empty where these are not aligned."""
    if normal is None or normal.poses is None:
        return []
    support, coverage = rooms.density.support, []
    for theta in normal.poses.to(rooms.density.device).split(_BATCH):
        coverage += room.coverage(rooms.maps.valid(theta), support, theta).tolist()
    return coverage


def _evidence(whole: FitRecord, coverage: Sequence[float], number: int) -> Mapping[str, Any] | None:
    """What an image must show, by the coverage of the regions in normal images."""
    if whole.evidence is None:
        return None
    words = "the region of interest"
    if number > 1:
        words = "the region of interest that it shows least of"
    kept = Evidence.from_record(whole.evidence)
    return replace(kept, coverage=Usual.of_coverage(coverage), covered_part=words).record()
