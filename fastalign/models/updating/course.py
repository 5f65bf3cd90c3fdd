"""The rooms of a model get the density, the thresholds and the record of an update, or stay."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from fastalign.errors import ConfigError
from fastalign.models.interest import Interest, change_region
from fastalign.models.judged_regions import judge_regions
from fastalign.models.progress import Progress
from fastalign.models.record import FitRecord
from fastalign.models.rooms import Rooms
from fastalign.models.thresholds import Change, fitted_thresholds, refitted
from fastalign.models.updating.choice import Choice
from fastalign.models.updating.joining import join
from fastalign.models.updating.record import record_then

if TYPE_CHECKING:
    from fastalign.roi import RegionsOfInterest


def update_rooms(
    rooms: Rooms,
    record: FitRecord,
    choice: Choice,
    roi: RegionsOfInterest | None,
    progress: Progress,
    *,
    keep_threshold: bool,
) -> FitRecord:
    """Take the chosen photographs into the rooms; returns the record that says so. On an error all
    is as it was.

    Raises:
        ConfigError: a covariance that is not positive definite, or regions of interest of a model
            that keeps no distances of normal images.
    """
    if roi is not None and record.normal_distances is None:
        raise ConfigError(
            "the model judges regions of interest and keeps no distances of its normal "
            "photographs, from which their thresholds follow: fit it again with the regions."
        )
    stored = float(rooms.maps.image_threshold), float(rooms.maps.pixel_threshold)
    with _restoring(rooms):
        whole = record if roi is None else judge_regions(rooms, record, None)
        joined = join(rooms, whole, choice, progress)
        found, value = record_then(whole, rooms.config, choice, joined)
        limits = float(rooms.maps.image_threshold), float(rooms.maps.pixel_threshold)
        found, limits = _thresholds(whole, found, limits, value, keep_threshold)
        rooms.density.take(joined.gaussians).calibrate(joined.calibration)
        rooms.maps.set_thresholds(*limits)
        if roi is None:
            return found
        return _of_regions(rooms, record, judge_regions(rooms, found, roi), stored, keep_threshold)


@contextmanager
def _restoring(rooms: Rooms) -> Iterator[None]:
    """What is judged, by which density and thresholds, is as it was where the block fails."""
    maps, density = rooms.maps, rooms.density
    regions, limits = maps.regions, (float(maps.image_threshold), float(maps.pixel_threshold))
    gaussians, calibration = density.gaussians, density.calibration.clone()
    try:
        yield
    except BaseException:
        if regions is not None:
            maps.interest(regions.labels, regions.gain)
        maps.set_thresholds(*limits)
        density.take(gaussians).calibrate(calibration)
        raise


def _thresholds(
    before: FitRecord,
    record: FitRecord,
    limits: tuple[float, float],
    value: float,
    keep: bool,
) -> tuple[FitRecord, tuple[float, float]]:
    """The thresholds then, and the record that says where they come from. One that was set after
    the fit stays, and what the fit has set is what an update derives."""
    if not math.isfinite(value) or keep:
        return replace(record, threshold_source=before.threshold_source), limits
    fitted, pixel_source = fitted_thresholds(before, limits)
    record = replace(record, pixel_threshold_source=pixel_source)
    limits, record = refitted(before, limits, record, _moved(fitted, value))
    return record, limits


def _of_regions(
    rooms: Rooms, before: FitRecord, record: FitRecord, limits: tuple[float, float], keep: bool
) -> FitRecord:
    """As :func:`_thresholds`, of a model that judges regions of interest and has derived all of its
    thresholds."""
    regions = Interest.from_record(before.regions_of_interest)
    assert regions is not None
    if len(regions.names) > 1:
        for name, fitted, value in zip(
            regions.names, regions.fitted, regions.thresholds, strict=True
        ):
            if value is not None and (keep or value != fitted):
                record = change_region(rooms, record, name, Change(value=value))
    derived = float(rooms.maps.image_threshold), float(rooms.maps.pixel_threshold)
    limits, record = refitted(before, limits, record, derived, keep=keep)
    rooms.maps.set_thresholds(*limits)
    return record


def _moved(limits: tuple[float, float], value: float) -> tuple[float, float]:
    """Both thresholds where that of images becomes ``value``: that of pixels moves along."""
    image, pixel = limits
    if not (math.isfinite(image) and math.isfinite(pixel)):
        return value, pixel
    return value, pixel * value / image if image > 0 else pixel + value - image
