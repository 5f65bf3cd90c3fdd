"""More good photographs for a fitted density: taken in by what is stored of it. Ours.

Network, adapters, template, channels or directions, prior and shrinkage stay those of the fit.
Photographs are aligned to the stored template, their features joined with the Gaussians
(:mod:`fastalign.nn.extended`), and the thresholds derived anew by the rule of the fit: a quantile
of scores of normal images by a density that has not seen them. Those of the fit are stored, and a
little high now, since a density with more images puts normal ones nearer; each new one is scored
without itself and its twins.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fastalign.data import group_twins
from fastalign.errors import ConfigError, InputError
from fastalign.models.evidence import Evidence
from fastalign.models.fitting.gaussians import least_count
from fastalign.models.fitting.source import ImageSource, spread
from fastalign.models.interest import judge_regions
from fastalign.models.known import KnownImages
from fastalign.models.normal import NormalDistances
from fastalign.models.progress import Progress
from fastalign.models.record import FitRecord
from fastalign.models.rooms import Rooms, warp
from fastalign.models.thresholds import kept_scores, one_of_twins
from fastalign.models.update import Taken
from fastalign.models.whole import whole_distance
from fastalign.nn.gaussian import DenseGaussian
from fastalign.nn.moments import Moments
from fastalign.words import none_of

if TYPE_CHECKING:
    from fastalign.models.detail import Detail
    from fastalign.roi import RegionsOfInterest

_FOLDS = 5
# New images that take turns for the thresholds: their features are held in memory.
_MOST = 100


@dataclass(frozen=True)
class _New:
    """A new image as the density sees it: its position, features ``[1,C,h,w]``, the warp, where it
    is valid."""

    position: int
    features: Tensor
    theta: Tensor | None
    valid: Tensor | None


class Updating:
    """One update of a model's rooms.

    Args:
        rooms: fitted.
        record: what is known about their fit.
        source: good photographs.
        progress: told about the course.
    """

    def __init__(
        self, rooms: Rooms, record: FitRecord, source: ImageSource, progress: Progress
    ) -> None:
        self._rooms, self._record, self._source = rooms, record, source
        self._progress = progress
        self._glances = source.glances(progress)
        self._digests = source.digests()
        self._groups = group_twins(self._glances)
        self.left_out: list[tuple[str, str]] = []
        self.warnings: list[str] = []
        self._near: dict[int, str] = {}
        self._before: dict[int, float] = {}

    # Which photographs ----------------------------------------------------------------------

    def choose(self, details: Iterator[tuple[int, Detail]]) -> list[int]:
        """Positions of the photographs that can be taken in, by what the model says of each.

        Raises:
            InputError: none can.
        """
        known = self._known()
        evidence = Evidence.from_record(self._record.evidence)
        chosen: list[int] = []
        seen: set[str] = set()
        for position, detail in details:
            name, reason = self._source.name(position), evidence.reason(detail, 0)
            digest = self._digests[position]
            found = None
            if known is not None:
                found = known.find(digest, self._glances[position : position + 1])
            if found is not None and found.same:
                reason = f"the model was fitted on it: {found.name}"
            elif digest in seen:
                reason = "a copy of another one that is given, pixel by pixel"
            elif reason:
                reason = f"it cannot be judged: {reason}"
            elif found is not None:
                self._near[position] = found.name
            if reason:
                self.left_out.append((name, reason))
                continue
            seen.add(digest)
            chosen.append(position)
            self._before[position] = float(detail.score[0])
        if not chosen:
            name, reason = self.left_out[0]
            raise InputError(
                f"{none_of(len(self.left_out), 'photograph', 'can be taken in')}; {name}: {reason}."
            )
        return chosen

    def _known(self) -> KnownImages | None:
        if self._record.known_images is None:
            self.warnings.append(
                "the model's file does not say which photographs it was fitted on (an earlier "
                "version wrote it), so copies of them were not looked for"
            )
            return None
        return KnownImages.from_record(self._record.known_images)

    # The density -----------------------------------------------------------------------------

    @property
    def _number(self) -> int:
        """Photographs that the density has seen."""
        images = self._record.images or {}
        joined = images.get("validation", 0) if self._rooms.config.refit else 0
        stored = images.get("train", 0) + joined + images.get("update", 0)
        return max(stored, int(self._rooms.density.gaussians.count.max()))

    def _described(self, positions: Sequence[int]) -> Iterator[_New]:
        rooms = self._rooms
        for images, places in self._source.batches(1, positions):
            found = rooms.pose.locate(images)
            stages, theta = rooms.features.extract(warp(images, found.theta), found.theta)
            features = rooms.density.describe(stages)
            yield _New(int(places[0]), features, theta, rooms.maps.valid(theta))
            self._progress.advance()

    def _sums(self) -> Moments:
        return self._rooms.density.gaussians.band(slice(None)).open_sums()

    def _joined(self, sums: Moments, number: int) -> DenseGaussian:
        """The Gaussians with ``number`` more images."""
        gaussians, prior = self._rooms.density.gaussians, self._record.prior
        return gaussians.extended(
            sums,
            strength=0.0 if prior is None else float(prior["strength"]),
            shrinkage=None if prior is None else float(prior["shrinkage"]),
            min_count=least_count(self._number + number, self._rooms.config.min_share),
        )

    def apply(self, chosen: Sequence[int]) -> tuple[DenseGaussian, Tensor, NormalDistances]:
        """The Gaussians with the chosen photographs, the calibration ``[h,w]``, and the distances
        of those that took turns, each without itself; nothing is changed.

        Raises:
            ConfigError: a covariance that is not positive definite.
        """
        turns = {chosen[place] for place in spread(len(chosen), _MOST)}
        kept: list[_New] = []
        rest, every = self._sums(), self._sums()
        self._progress.start("taking in", len(chosen))
        for new in self._described(chosen):
            every.add(new.features, new.valid)
            if new.position in turns:
                kept.append(new)
            else:
                rest.add(new.features, new.valid)
        gaussians = self._joined(every, len(chosen))
        calibration = self._calibration(gaussians)
        places = {group: at for at, group in enumerate(dict.fromkeys(map(self._group, kept)))}
        folds = min(_FOLDS, len(places))
        fold_of = [places[self._group(one)] % folds for one in kept]
        distance = torch.empty((len(kept), *self._rooms.density.size))
        self._progress.start("thresholds", folds)
        for fold in range(folds):
            others = [one for one, of in zip(kept, fold_of, strict=True) if of != fold]
            sums = self._sums()
            sums.merge(rest)
            for one in others:
                sums.add(one.features, one.valid)
            alone = self._joined(sums, len(chosen) - len(kept) + len(others))
            for index, one in enumerate(kept):
                if fold_of[index] == fold:
                    found = alone(one.features)[0] * calibration
                    distance[index] = found.masked_fill(~alone.support, torch.nan).cpu()
            self._progress.advance()
        theta = [one.theta for one in kept if one.theta is not None]
        groups = [self._group(one) for one in kept]
        pose = torch.cat(theta).cpu().float() if theta else None
        self._turned = [one.position for one in kept]
        return gaussians, calibration, NormalDistances(distance, pose, groups, pose, "")

    def _group(self, new: _New) -> int:
        return self._groups[new.position]

    def _calibration(self, gaussians: DenseGaussian) -> Tensor:
        """Factors of distances for the counts as they are then: those of the fit, by the share of
        the images that have seen a location."""
        density = self._rooms.density
        before, after = density.gaussians, gaussians
        known = before.support
        shares = (before.count[known] / before.count.max()).double().cpu().numpy()
        factors = density.calibration[known].double().cpu().numpy()
        order = np.argsort(shares, kind="stable")
        now = (after.count / after.count.max().clamp_min(1)).double().cpu().numpy()
        found = np.interp(now, shares[order], factors[order]) if len(order) else np.ones_like(now)
        return torch.from_numpy(found).to(density.calibration)

    # What is known then ----------------------------------------------------------------------

    def scores(self, new: NormalDistances) -> tuple[Tensor, Tensor]:
        """Of the images that took turns the score and :func:`whole_distance`, each ``[M]``."""
        rooms = self._rooms
        device = rooms.density.device
        scores = torch.empty(len(new.distance), dtype=torch.float64)
        wholes = torch.empty_like(scores)
        for index, distance in enumerate(new.distance[:, None].to(device)):
            theta = None if new.theta is None else new.theta[index : index + 1].to(device)
            support = distance.isfinite().all(0)
            own = None if bool(support.all()) else support
            score, maps = rooms.maps(distance.nan_to_num(0.0), theta, own)
            scores[index], wholes[index] = float(score[0]), float(whole_distance(maps)[0])
        return scores, wholes

    def record(
        self,
        record: FitRecord,
        chosen: Sequence[int],
        scores: Tensor,
        wholes: Tensor,
        new: NormalDistances,
    ) -> tuple[FitRecord, float]:
        """What is known then, and the threshold by the rule of the fit; NaN where there was none
        before.

        Args:
            record: of the whole part, before.
            chosen: photographs that were taken in.
            scores, wholes, new: of those that took turns.
        """
        config = self._rooms.config
        own = [place for place, at in enumerate(self._turned) if at not in self._near]
        distinct, _ = one_of_twins(scores[own], [new.groups[place] for place in own])
        value, normal, source = math.nan, record.normal_scores, record.threshold_source
        if normal and len(distinct):
            stored = list(normal["scores"])
            of = re.match(r"(\d+) (.*)", normal["of"])
            number, words = (int(of[1]), of[2]) if of else (len(stored), "normal images")
            # Of many scores a share is kept, and stands for all of them.
            together = stored * max(1, round(number / len(stored))) + distinct.tolist()
            value = float(np.quantile(together, config.threshold_quantile))
            earlier = re.search(r", (\d+) of them by updates$", words)
            words = words[: earlier.start()] if earlier else words
            added = len(distinct) + (int(earlier[1]) if earlier else 0)
            told = f"{number + len(distinct)} {words}, {added} of them by updates"
            normal = {"of": told, "scores": kept_scores(together)}
            source = f"quantile {config.threshold_quantile:g} of {told}"
        elif not normal:
            self.warnings.append(
                "the model keeps no scores of normal photographs, so its thresholds stay as they "
                "are"
            )
        images = dict(record.images or {})
        images["update"] = images.get("update", 0) + len(chosen)
        return (
            replace(
                record,
                images=images,
                normal_scores=normal,
                threshold_source=source,
                normal_whole=_larger(record.normal_whole, wholes),
                normal_distances=self._distances(new),
                known_images=self._known_with(chosen),
                photographs=self._sizes(),
            ),
            value,
        )

    def _distances(self, new: NormalDistances) -> dict[str, Any] | None:
        if self._record.normal_distances is None:
            return None
        old = NormalDistances.from_record(self._record.normal_distances)
        own = [place for place, at in enumerate(self._turned) if at not in self._near]
        number = len(old.distance) + len(own)
        if not NormalDistances.fits(number, self._rooms.density.size):
            return None
        first = max(old.groups, default=-1) + 1

        def joined(before: Tensor | None, more: Tensor | None) -> Tensor | None:
            return None if before is None or more is None else torch.cat([before, more[own]])

        distance = joined(old.distance, new.distance)
        assert distance is not None
        groups = [*old.groups, *(first + new.groups[place] for place in own)]
        poses = joined(old.poses, new.poses)
        theta = joined(old.theta, new.theta)
        return NormalDistances(distance, theta, groups, poses, old.kind, old.alone).record()

    def _known_with(self, chosen: Sequence[int]) -> dict[str, Any] | None:
        from fastalign.data.twins import pictures

        if self._record.known_images is None:
            return None
        known = KnownImages.from_record(self._record.known_images)
        names = [self._source.name(position).replace("\\", "/") for position in chosen]
        small = pictures(self._glances[list(chosen)]).half()
        return KnownImages(
            [*known.names, *names],
            # An earlier version kept none; a list must not tell other images' places.
            [*known.digests, *(self._digests[at] for at in chosen)] if known.digests else [],
            torch.cat([known.pictures, small]),
            known.typical,
        ).record()

    def _sizes(self) -> dict[str, Any] | None:
        stored, sizes = self._record.photographs, self._source.sizes()
        if stored is None or not sizes:
            return None if stored is None else dict(stored)
        widths, aspects = [w for w, _ in sizes], [w / h for w, h in sizes]
        return {
            **stored,
            "width": [min(stored["width"][0], *widths), max(stored["width"][1], *widths)],
            "aspect": [min(stored["aspect"][0], *aspects), max(stored["aspect"][1], *aspects)],
        }

    def taken(self, after: Iterator[tuple[int, Detail]]) -> list[Taken]:
        """The photographs with their scores before and after."""
        return [
            Taken(
                self._source.name(position),
                self._before[position],
                float(detail.score[0]),
                self._near.get(position, ""),
            )
            for position, detail in after
        ]


def _larger(stored: Any, wholes: Tensor) -> dict[str, float] | None:
    known = wholes[wholes.isfinite()]
    if stored is None or not len(known):
        return None if stored is None else dict(stored)
    return {**stored, "distance": max(float(stored["distance"]), float(known.max()))}


@contextmanager
def _whole_part(rooms: Rooms, record: FitRecord) -> Iterator[FitRecord]:
    """The record of the whole part; what is judged is as it was where the block fails."""
    maps = rooms.maps
    regions, limits = maps.regions, (float(maps.image_threshold), float(maps.pixel_threshold))
    try:
        yield judge_regions(rooms, record, None) if regions is not None else record
    except BaseException:
        if regions is not None:
            maps.interest(regions.labels, regions.gain)
        maps.set_thresholds(*limits)
        raise


def update_rooms(
    rooms: Rooms,
    record: FitRecord,
    updating: Updating,
    chosen: Sequence[int],
    roi: RegionsOfInterest | None,
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
    with _whole_part(rooms, record) as whole:
        gaussians, calibration, new = updating.apply(chosen)
        scores, wholes = updating.scores(new)
        found, value = updating.record(whole, chosen, scores, wholes, new)
        limits = float(rooms.maps.image_threshold), float(rooms.maps.pixel_threshold)
        found, limits = _thresholds(whole, found, limits, value, keep_threshold)
        kept = rooms.density.gaussians, rooms.density.calibration.clone()
        rooms.density.take(gaussians)
        rooms.density.calibrate(calibration)
        rooms.maps.set_thresholds(*limits)
        try:
            return found if roi is None else judge_regions(rooms, found, roi)
        except BaseException:
            rooms.density.take(kept[0])
            rooms.density.calibrate(kept[1])
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
        kept = replace(record, threshold_source=before.threshold_source)
        return kept, limits
    if before.fitted_thresholds:
        fitted = dict(before.fitted_thresholds)
        image, pixel = _moved((fitted["image"], fitted["pixel"]), value)
        fitted |= {"image": image, "pixel": pixel, "source": record.threshold_source}
        kept = replace(record, threshold_source=before.threshold_source, fitted_thresholds=fitted)
        return kept, limits
    image, pixel = _moved(limits, value)
    return record, (value, math.nan if pixel is None else pixel)


def _moved(
    limits: tuple[float | None, float | None], value: float
) -> tuple[float | None, float | None]:
    """Both thresholds where that of images becomes ``value``: that of pixels moves along."""
    image, pixel = limits
    if image is None or pixel is None or not (math.isfinite(image) and math.isfinite(pixel)):
        return value, pixel
    if image > 0:
        return value, pixel * value / image
    return value, pixel + value - image
