"""Scores of normal images that a density has not seen, for thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fastalign.models.config import FYDConfig
from fastalign.models.fitting.gaussians import (
    GaussianFit,
    Waiting,
    least_count,
    rows_around,
    samples_for,
    support_of,
)
from fastalign.models.fitting.passes import Described, Passes, one_by_one
from fastalign.models.fitting.priors import Priors
from fastalign.models.fitting.samples import Samples, calibration
from fastalign.models.fitting.setting import Setting
from fastalign.models.fitting.source import ImageSource, spread
from fastalign.models.fitting.survey import FEW, Survey
from fastalign.models.normal import NormalDistances
from fastalign.models.pieces import split_rows
from fastalign.models.whole import whole_distance
from fastalign.nn.calibration import CountCalibration
from fastalign.nn.gaussian import DenseGaussian

# From so many validation images on, their scores are a threshold's basis by themselves.
ENOUGH = FEW
_FOLDS = 5
# Images that take turns: their features, or those of a band of rows, are held in memory.
MOST_TURNS = 100


def turns(survey: Survey, refit: bool) -> list[int]:
    """Positions of the images that take turns for the thresholds; none where validation images are
    enough by themselves, or where there are none."""
    train, validation = survey.train, len(survey.groups) - survey.train
    if validation == 0 or not refit or survey.distinct() < 2:
        return []
    if survey.distinct_of(survey.held_out) >= ENOUGH:
        return []
    # More than these are twins of each other or of training images.
    held_out = spread(validation, ENOUGH - 1)
    return spread(train, MOST_TURNS - len(held_out)) + [train + index for index in held_out]


def turns_of(groups: Sequence[int]) -> tuple[int, list[int]]:
    """How many turns images take, and that of each, by the number of its group of twins, which has
    the same: in each turn a density of the others scores those whose it is."""
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    turns = min(_FOLDS, len(places))
    return turns, [places[group] % turns for group in groups]


class InTurn(NamedTuple):
    """What images in turn have shown.

    Attributes:
        measures: of each image what :func:`_measure` gives, from a density of the others.
        fitted: how many different images these were, ``[M]``.
        unseen: the distances; None: too large to keep.
        curve: how distances fall with the number of images, of all that take turns.
    """

    measures: Tensor
    fitted: Tensor
    unseen: Unseen | None
    curve: CountCalibration | None


class Unseen(NamedTuple):
    """Distances ``[M,h,w]`` of images by a density that has not seen them, on the CPU, NaN where it
    has no support; and their theta ``[M,2,3]``, None without alignment."""

    distance: Tensor
    theta: Tensor | None


class HeldOut:
    """Scores of validation images by the density of the training images, a band at a time."""

    def __init__(self, passes: Passes, validation: ImageSource, survey: Survey) -> None:
        self._passes, self._validation = passes, validation
        self._share = passes.world.share(len(validation))
        rows, columns = passes.rooms.density.size
        device = passes.rooms.density.device
        self._distance = torch.zeros((len(self._share), rows, columns), device=device)
        self._count = torch.zeros((rows, columns), dtype=torch.int64, device=device)
        self._theta: list[Tensor | None] = [None] * len(self._share)
        self._curve: CountCalibration | None = None
        self._number = survey.train
        self._distinct = survey.distinct(survey.train)

    def look(self, fit: GaussianFit, rows: slice) -> None:
        """Score the open band of ``fit``, and let the images join it where that is wanted."""
        passes, world, share = self._passes, self._passes.world, self._share
        refit = passes.rooms.config.refit
        passes.tell("thresholds", passes.plan.bands * len(share))
        if rows.start == 0:
            self._number = fit.number
            self._curve = fit.curve()
        self._count[rows] = fit.count
        fit.pass_over(share.start)
        with world.together("scoring the validation images"):
            at = 0
            for encoded in passes.encode(self._validation, share):
                until = at + len(encoded.features)
                self._distance[at:until, rows] = fit.score(encoded.features)
                if encoded.theta is not None:
                    self._theta[at:until] = encoded.theta.split(1)
                at = until
                if refit:
                    fit.add(encoded.features, encoded.valid)
        fit.pass_over(len(self._validation) - share.stop)
        if refit:
            fit.settle()

    def measures(self) -> tuple[Tensor, Tensor, Unseen | None]:
        """Of all validation images what :func:`_measure` gives, to how many different images the
        density was fitted, and their distances, None where these are too large to keep."""
        rooms, world = self._passes.rooms, self._passes.world
        config = rooms.config
        share = self._distinct / self._number
        factor = calibration(self._curve, self._count, config.calibrate, share)
        support = support_of(self._count, self._number, config.min_share)
        device = self._distance.device
        keep = NormalDistances.fits(len(self._validation), rooms.density.size)
        own = torch.empty((len(self._share), 3), dtype=torch.float64, device=device)
        with world.together("scoring the validation images"):
            for index, (distance, theta) in enumerate(
                zip(self._distance, self._theta, strict=True)
            ):
                own[index] = _measure(*rooms.maps((distance * factor)[None], theta, support))
        # On the CPU, where the curve of the calibration is.
        measures = world.gather_rows(own, "the scores of validation images").cpu()
        unseen = None
        if keep:
            own = _unseen(self._distance * factor, support)
            own = world.gather_rows(own, "the distances of validation images").cpu()
            unseen = Unseen(own, self._poses())
        return measures, torch.full_like(measures[:, 0], self._distinct), unseen

    def _poses(self) -> Tensor | None:
        """theta of all validation images on the CPU."""
        known = [theta for theta in self._theta if theta is not None]
        own = torch.cat(known) if known else torch.empty((0, 2, 3), device=self._distance.device)
        poses = self._passes.world.gather_rows(own, "the poses of validation images").cpu()
        return poses if len(poses) else None


def in_turn(
    passes: Passes,
    train: ImageSource,
    validation: ImageSource,
    setting: Setting,
    floor: Tensor | None,
) -> InTurn:
    """The normal images whose turn it is, each judged by a density of the others that are no twins
    of it; ``floor``: of the prior."""
    survey, positions, seed = setting.survey, setting.turns, setting.seed
    rooms, config = passes.rooms, passes.rooms.config
    share = [position for position in positions if position < survey.train]
    held_out = [position - survey.train for position in positions if position >= survey.train]
    groups = [survey.groups[position] for position in positions]
    number, (folds, fold_of) = len(positions), turns_of(groups)
    height, width = rooms.density.size
    device = rooms.density.device
    distance = torch.zeros((number, height, width), device=device)
    count = torch.zeros((folds, height, width), dtype=torch.int64, device=device)
    theta: list[Tensor | None] = []
    samples = samples_for(config, rooms.density.size)
    picked: list[tuple[Tensor, Tensor]] = []
    bands = split_rows(height, passes.plan.turn_bands)
    passes.progress.start("thresholds", number * len(bands))
    for rows in bands:
        around = rows_around(rows, config, height)
        inner = slice(rows.start - around.start, rows.stop - around.start)
        images: list[Described] = []
        for one in one_by_one(passes, (train, share), (validation, held_out)):
            if rows.start == 0:
                picked.append(samples.pick(one.features, one.valid))
                theta.append(one.theta)
            images.append(one if len(bands) == 1 else one.rows(around))
        if rows.start == 0:
            others = [Others(samples, picked, groups, fold_of, fold) for fold in range(folds)]
            # One number of all images says nothing of any; covariances are the others'.
            every = Others(samples, picked, groups, fold_of, -1)
            found = every.priors(config, floor, config.prior)
            strength = 0.0 if found.covariance is None else found.covariance.strength
            priors = [one.priors(config, floor, strength) for one in others]
            # Features that know the held-out images would make these look ordinary.
            again = [None if floor is None else one.whitening_again(floor) for one in others]
        for fold in range(folds):
            density = rooms.density.gaussians.band(around)
            turn = again[fold]
            kept = [
                _turned(one, turn) for index, one in enumerate(images) if fold_of[index] != fold
            ]
            _update(density, kept, passes.plan.group)
            least = least_count(len(kept), config.min_share)
            density.finalize(min_count=least, **priors[fold].options(config, len(kept)))
            count[fold, rows] = density.count[inner]
            for index in (index for index in range(number) if fold_of[index] == fold):
                features = _turned(images[index], turn).features[:, :, inner]
                distance[index, rows] = density(features, inner)[0]
    measures = torch.empty((number, 3), dtype=torch.float64)
    fitted = torch.empty(number)
    # Nor does one curve of all.
    shrinkage = rooms.density.gaussians.shrinkage
    curve = found.curve(every.samples, config, shrinkage, seed, every.groups, number)
    for fold in range(folds):
        kept_groups = others[fold].groups
        distinct = len(set(kept_groups))
        factor = calibration(curve, count[fold], config.calibrate, distinct / len(kept_groups))
        support = support_of(count[fold], len(kept_groups), config.min_share)
        for index in (index for index in range(number) if fold_of[index] == fold):
            scored = rooms.maps((distance[index] * factor)[None], theta[index], support)
            measures[index] = _measure(*scored).cpu()
            fitted[index] = distinct
            distance[index] = _unseen(distance[index] * factor, support)
    if not NormalDistances.fits(number, rooms.density.size):
        return InTurn(measures, fitted, None, curve)
    known = [one for one in theta if one is not None]
    unseen = Unseen(distance.cpu(), torch.cat(known).cpu() if known else None)
    return InTurn(measures, fitted, unseen, curve)


class Others:
    """Samples of the images that are not of a fold, and their groups of twins.

    Args:
        like: samples of the same places.
        picked: what :meth:`Samples.pick` gave, of each image.
        groups, fold_of: the group of twins and the fold of each image.
        fold: the fold that is left out.
    """

    def __init__(
        self,
        like: Samples,
        picked: Sequence[tuple[Tensor, Tensor]],
        groups: Sequence[int],
        fold_of: Sequence[int],
        fold: int,
    ) -> None:
        kept = [index for index, own in enumerate(fold_of) if own != fold]
        self.groups = [groups[index] for index in kept]
        self.samples = like.empty()
        for position, index in enumerate(kept):
            self.samples.put(*picked[index], position)

    def whitening_again(self, floor: Tensor) -> Tensor:
        """See :meth:`Samples.whitening_again`."""
        return self.samples.whitening_again(self.groups, floor)

    def priors(self, config: FYDConfig, floor: Tensor | None, strength: float | None) -> Priors:
        """See :meth:`Priors.of`."""
        return Priors.of(self.samples, config, self.groups, floor, strength)


def _measure(score: Tensor, maps: Tensor) -> Tensor:
    """The score ``[1]`` of a map ``[1,H,W]``, the distance of the whole image and the map's largest
    value, ``[3]`` float64."""
    largest = torch.where(score[0].isnan(), torch.nan, maps.nan_to_num(0.0).amax())
    return torch.stack([score[0], whole_distance(maps)[0], largest]).double()


def _unseen(distance: Tensor, support: Tensor | None) -> Tensor:
    """Distances ``[...,h,w]``, NaN where there is no support, and all of those of an image that has
    some that are not finite."""
    known = distance.isfinite() if support is None else distance.isfinite() | ~support
    kept = known.flatten(-2).all(-1)[..., None, None]
    kept = kept.expand_as(distance) if support is None else kept & support
    return torch.where(kept, distance, torch.nan)


def _turned(one: Described, turn: Tensor | None) -> Described:
    """With features that are others' sums, ``turn [C,C]``."""
    if turn is None:
        return one
    kernel = turn.to(one.features.device)[:, :, None, None]
    return replace(one, features=F.conv2d(one.features, kernel))


def _update(density: DenseGaussian, images: Sequence[Described], group: int) -> None:
    """Take the images into the density, so many at once."""
    waiting = Waiting(group)
    for one in images:
        waiting.add(one.features, one.valid, None)
        if waiting.full:
            density.update(*waiting.take())
    if len(waiting):
        density.update(*waiting.take())
