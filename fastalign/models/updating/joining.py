"""The density with more photographs, and what those are to one that has not seen them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastalign.models.fitting.gaussians import least_count
from fastalign.models.fitting.source import spread
from fastalign.models.fitting.thresholds import MOST_TURNS, turns_of
from fastalign.models.normal import NormalDistances
from fastalign.models.progress import Progress
from fastalign.models.record import FitRecord
from fastalign.models.rooms import Rooms, warp
from fastalign.models.stored_density import form_of
from fastalign.models.updating.choice import Choice
from fastalign.models.whole import whole_distance
from fastalign.nn.gaussian import DenseGaussian
from fastalign.nn.mean_prior import stored_strength
from fastalign.nn.moments import Moments


@dataclass(frozen=True)
class Joined:
    """The density then.

    Attributes:
        gaussians: with all chosen photographs.
        calibration: ``[h,w]``, what distances are multiplied with.
        turns: positions of those that took turns.
        distances: of these, each without itself and its twins.
        scores, wholes: of these by such distances, each ``[M]`` float64:
            :func:`fastalign.models.whole.whole_distance` is the second.
    """

    gaussians: DenseGaussian
    calibration: Tensor
    turns: list[int]
    distances: NormalDistances
    scores: Tensor
    wholes: Tensor


@dataclass(frozen=True)
class _New:
    """A new image as the density sees it: its position, features ``[1,C,h,w]``, the warp, where it
    is valid."""

    position: int
    features: Tensor
    theta: Tensor | None
    valid: Tensor | None


def join(rooms: Rooms, record: FitRecord, choice: Choice, progress: Progress) -> Joined:
    """Join the chosen photographs with the density of rooms that judge the whole part; nothing is
    changed.

    Raises:
        ConfigError: a covariance that is not positive definite.
    """
    return _Joining(rooms, record, choice, progress).join()


class _Joining:
    def __init__(self, rooms: Rooms, record: FitRecord, choice: Choice, progress: Progress) -> None:
        self._rooms, self._record, self._choice = rooms, record, choice
        self._progress = progress
        images = record.images or {}
        joined = images.get("validation", 0) if rooms.config.refit else 0
        stored = images.get("train", 0) + joined + images.get("update", 0)
        # Photographs that the density has seen.
        self._number = max(stored, int(rooms.density.gaussians.count.max()))

    def join(self) -> Joined:
        chosen = self._choice.chosen
        turns = {chosen[place] for place in spread(len(chosen), MOST_TURNS)}
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
        distance = self._in_turn(kept, rest, calibration)
        theta = [one.theta for one in kept if one.theta is not None]
        groups = [self._choice.groups[one.position] for one in kept]
        poses = torch.cat(theta).cpu().float() if theta else None
        found = NormalDistances(distance, poses, groups, poses, "")
        scores, wholes = self._scores(found)
        positions = [one.position for one in kept]
        return Joined(gaussians, calibration, positions, found, scores, wholes)

    def _described(self, positions: Sequence[int]) -> Iterator[_New]:
        rooms = self._rooms
        for images, places in self._choice.source.batches(1, positions):
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
        number += self._number
        form = None
        if gaussians.rank is not None and prior is not None:
            form = form_of(self._rooms.config, float(prior["strength"]), number)
        return gaussians.extended(
            sums,
            form=form,
            strength=0.0 if prior is None else float(prior["strength"]),
            shrinkage=None if prior is None else float(prior["shrinkage"]),
            min_count=least_count(number, self._rooms.config.min_share),
            mean_strength=stored_strength(prior),
        )

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

    def _in_turn(self, kept: Sequence[_New], rest: Moments, calibration: Tensor) -> Tensor:
        """Distances ``[M,h,w]`` of images, each by a density without it and its twins, on the CPU;
        NaN without support."""
        folds, fold_of = turns_of([self._choice.groups[one.position] for one in kept])
        distance = torch.empty((len(kept), *self._rooms.density.size))
        self._progress.start("thresholds", folds)
        for fold in range(folds):
            others = [one for one, of in zip(kept, fold_of, strict=True) if of != fold]
            sums = self._sums()
            sums.merge(rest)
            for one in others:
                sums.add(one.features, one.valid)
            number = len(self._choice.chosen) - len(kept) + len(others)
            alone = self._joined(sums, number)
            for index, one in enumerate(kept):
                if fold_of[index] == fold:
                    found = alone(one.features)[0] * calibration
                    distance[index] = found.masked_fill(~alone.support, torch.nan).cpu()
            self._progress.advance()
        return distance

    def _scores(self, new: NormalDistances) -> tuple[Tensor, Tensor]:
        maps_of = self._rooms.maps
        scores = torch.empty(len(new.distance), dtype=torch.float64)
        wholes = torch.empty_like(scores)
        for index, image in enumerate(new.each(self._rooms.density.device)):
            score, maps = maps_of(*image)
            scores[index], wholes[index] = float(score[0]), float(whole_distance(maps)[0])
        return scores, wholes
