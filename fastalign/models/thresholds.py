"""The end of a fit: the density, and thresholds from images that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastalign.distributed import World
from fastalign.models.density import (
    GaussianFit,
    Samples,
    Waiting,
    calibration,
    least_count,
    support_of,
)
from fastalign.models.memory import MemoryPlan, split_rows
from fastalign.models.progress import Progress
from fastalign.models.source import ImageSource, spread
from fastalign.models.survey import FEW, Survey

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD
    from fastalign.nn.calibration import CountCalibration
    from fastalign.nn.gaussian import DenseGaussian

# From so many validation images on, their scores are a threshold's basis by themselves.
ENOUGH = FEW
_FOLDS = 5
# Images that take turns: their features, or those of a band of rows, are held in memory.
_MOST = 100


@dataclass(frozen=True)
class _Encoded:
    """Images as the density sees them: features ``[B,C,h,w]``, the warps, where they are valid."""

    features: Tensor
    theta: Tensor | None
    valid: Tensor | None

    def rows(self, rows: slice) -> _Encoded:
        """Some rows of the maps; copies, since parts would keep the whole in memory."""
        valid = None if self.valid is None else self.valid[:, rows].clone()
        return _Encoded(self.features[:, :, rows].contiguous(), self.theta, valid)


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
    return spread(train, _MOST - len(held_out)) + [train + index for index in held_out]


@torch.no_grad()
def fit_density(
    model: FYD,
    train: ImageSource,
    validation: ImageSource | None,
    survey: Survey,
    seed: int,
    progress: Progress,
    world: World,
    plan: MemoryPlan,
) -> list[str]:
    """Fit the Gaussians of a model whose alignment is settled, and set its thresholds.

    The thresholds are a quantile of the scores that normal images get from a density that has not
    seen them: validation images from the density of the training images, or, where they are few
    and join the density in the end anyway (``refit``), all images in turn. Distances shrink with
    the number of images a density is fitted to, and the thresholds shrink by as much. Twins count
    as one image: no density that scores one has seen another, and of their scores the largest
    counts.

    Several processes share out the images; where all images take turns, which they do only where
    they are few, the first process does it for all.

    Returns:
        what the user has to know, in sentences.
    """
    config = model.config
    course = _Course(model, progress, world, plan)
    source = "none: fitted without normal validation images"
    scores, fitted = torch.empty(0, dtype=torch.float64), torch.empty(0)
    taking_turns = turns(survey, config.refit)
    few = validation is not None and len(taking_turns) > 0
    positions: list[int] = []
    if validation is not None and few:
        positions = taking_turns
        scores, fitted = world.once(
            partial(_in_turn, course, train, validation, survey, positions, seed), "the thresholds"
        )
        source = "{} normal images, each scored without itself"
    fit = GaussianFit(model, seed, survey.groups, world, plan.group)
    held_out = None
    if validation is not None and not few:
        held_out = _HeldOut(course, validation, survey)
    for rows in split_rows(model.feature_size[0], plan.bands):
        fit.open(rows)
        course.add(fit, train)
        if validation is not None and few:
            course.add(fit, validation)
        fit.settle(keep=held_out is not None and config.refit)
        if held_out is not None:
            held_out.look(fit, rows)
        fit.close()
    if held_out is not None:
        positions = survey.held_out
        of_validation = torch.tensor(positions, dtype=torch.long) - survey.train
        scores, fitted = (values[of_validation] for values in held_out.scores())
        source = "{} normal validation images"
    distinct = survey.distinct(fit.number)
    curve = fit.curve()
    assert model.density.count is not None
    model.calibration.copy_(
        calibration(curve, model.density.count, config.calibrate, distinct / fit.number)
    )
    if len(scores) and config.refit and curve is not None:
        scores = scores * curve.ratio(torch.tensor(distinct), fitted).to(scores)
    scores, lost = _one_of_twins(scores, [survey.groups[position] for position in positions])
    threshold = math.nan
    if len(scores):
        threshold = float(scores.quantile(config.threshold_quantile))
        source = f"quantile {config.threshold_quantile:g} of {source.format(len(scores))}"
    else:
        source = "none: fitted without normal validation images"
    for buffer in (model.image_threshold, model.pixel_threshold):
        buffer.fill_(threshold)
    model._metadata["threshold_source"] = source
    model._metadata["least_covered"] = course.least_covered()
    if not lost:
        return []
    return [
        f"{lost} normal images could not be judged and have no part in the thresholds: alignment "
        "left nothing of them to compare, or their features are not finite."
    ]


def _one_of_twins(scores: Tensor, groups: Sequence[int]) -> tuple[Tensor, int]:
    """The largest score of each group, and how many scores are left out as not finite."""
    best: dict[int, float] = {}
    lost = 0
    for score, group in zip(scores.tolist(), groups, strict=True):
        if math.isfinite(score):
            best[group] = max(score, best.get(group, score))
        else:
            lost += 1
    return scores.new_tensor(list(best.values())), lost


class _Course:
    """Passes over images, as often as the plan needs them."""

    def __init__(self, model: FYD, progress: Progress, world: World, plan: MemoryPlan) -> None:
        self.model, self.progress, self.world, self.plan = model, progress, world, plan
        self._told: set[str] = set()
        self._covered = 1.0

    def add(self, fit: GaussianFit, source: ImageSource) -> None:
        """All images of ``source`` into the band that ``fit`` has open."""
        share = self.world.share(len(source))
        self.tell("fitting", self.plan.bands * len(share), source)
        fit.pass_over(share.start)
        with self.world.together("fitting"):
            for encoded in self.encode(source, share):
                fit.add(encoded.features, encoded.valid)
        fit.pass_over(len(source) - share.stop)

    def tell(self, stage: str, total: int, source: ImageSource | None = None) -> None:
        """Start a stage of the progress, once for all bands."""
        key = f"{stage} {id(source)}"
        if key not in self._told:
            self._told.add(key)
            self.progress.start(stage, total)

    def encode(
        self, source: ImageSource, indices: Sequence[int] | None = None
    ) -> Iterator[_Encoded]:
        """The images, so many at a time as the plan says."""
        model = self.model
        for images, _ in source.batches(self.plan.images, indices):
            pose = model.find_pose(images)
            stages, theta = model.encode(model.warp(images, pose), pose)
            valid = model.valid(theta)
            if valid is not None:
                self._covered = min(self._covered, float(valid.float().mean((1, 2)).min()))
            yield _Encoded(model.describe(stages), theta, valid)
            self.progress.advance(len(images))

    def least_covered(self) -> float:
        """The share of the aligned frame that each normal image covered at least."""
        own = torch.tensor([self._covered], dtype=torch.float64)
        return float(self.world.gather_rows(own, "the coverage of normal images").min())


class _HeldOut:
    """Scores of validation images by the density of the training images, a band at a time."""

    def __init__(self, course: _Course, validation: ImageSource, survey: Survey) -> None:
        self._course, self._validation = course, validation
        self._share = course.world.share(len(validation))
        rows, columns = course.model.feature_size
        device = course.model.selection.device
        self._distance = torch.zeros((len(self._share), rows, columns), device=device)
        self._count = torch.zeros((rows, columns), dtype=torch.int64, device=device)
        self._theta: list[Tensor | None] = [None] * len(self._share)
        self._curve: CountCalibration | None = None
        self._number = survey.train
        self._distinct = survey.distinct(survey.train)

    def look(self, fit: GaussianFit, rows: slice) -> None:
        """Score the open band of ``fit``, and let the images join it where that is wanted."""
        course, world, share = self._course, self._course.world, self._share
        refit = course.model.config.refit
        course.tell("thresholds", course.plan.bands * len(share))
        whole = rows == slice(0, self._count.shape[0])
        if rows.start == 0:
            self._number = fit.number
            self._curve = fit.curve()
        assert fit.density.count is not None
        self._count[rows] = fit.density.count
        fit.pass_over(share.start)
        with world.together("scoring the validation images"):
            at = 0
            for encoded in course.encode(self._validation, share):
                features = encoded.features if whole else encoded.features[:, :, rows]
                until = at + len(features)
                self._distance[at:until, rows] = fit.density(features)
                if encoded.theta is not None:
                    self._theta[at:until] = encoded.theta.split(1)
                at = until
                if refit:
                    fit.add(encoded.features, encoded.valid)
        fit.pass_over(len(self._validation) - share.stop)
        if refit:
            fit.settle()

    def scores(self) -> tuple[Tensor, Tensor]:
        """Scores of all validation images, and to how many different images the density was
        fitted."""
        model, world = self._course.model, self._course.world
        config = model.config
        share = self._distinct / self._number
        factor = calibration(self._curve, self._count, config.calibrate, share)
        support = support_of(self._count, self._number, config.min_share)
        own = torch.empty(len(self._share), dtype=torch.float64, device=self._distance.device)
        with world.together("scoring the validation images"):
            for index, (distance, theta) in enumerate(
                zip(self._distance, self._theta, strict=True)
            ):
                own[index] = model.map_from((distance * factor)[None], theta, support).amax()
        scores = world.gather_rows(own, "the scores of validation images")
        return scores, torch.full_like(scores, self._distinct)


def _in_turn(
    course: _Course,
    train: ImageSource,
    validation: ImageSource,
    survey: Survey,
    positions: Sequence[int],
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Scores of the normal images at ``positions``, each from a density of the others that are no
    twins of it, and how many different ones these were."""
    model, config = course.model, course.model.config
    share = [position for position in positions if position < survey.train]
    held_out = [position - survey.train for position in positions if position >= survey.train]
    groups = [survey.groups[position] for position in positions]
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    number, folds = len(positions), min(_FOLDS, len(places))
    fold_of = [places[group] % folds for group in groups]
    height, width = model.feature_size
    device = model.selection.device
    distance = torch.zeros((number, height, width), device=device)
    count = torch.zeros((folds, height, width), dtype=torch.int64, device=device)
    theta: list[Tensor | None] = []
    samples = Samples(model.feature_size)
    picked: list[tuple[Tensor, Tensor]] = []
    bands = split_rows(height, course.plan.turn_bands)
    course.progress.start("thresholds", number * len(bands))
    for rows in bands:
        images: list[_Encoded] = []
        for one in _one_by_one(course, (train, share), (validation, held_out)):
            if rows.start == 0:
                picked.append(samples.pick(one.features, one.valid))
                theta.append(one.theta)
            images.append(one if len(bands) == 1 else one.rows(rows))
        for fold in range(folds):
            density = model.density.band(rows)
            kept = [one for index, one in enumerate(images) if fold_of[index] != fold]
            _update(density, kept, course.plan.group)
            density.min_count = least_count(len(kept), config.min_share)
            density.finalize()
            assert density.count is not None
            count[fold, rows] = density.count
            for index in (index for index in range(number) if fold_of[index] == fold):
                distance[index, rows] = density(images[index].features)[0]
    scores = torch.empty(number, dtype=torch.float64)
    fitted = torch.empty(number)
    for fold in range(folds):
        kept_groups = [group for index, group in enumerate(groups) if fold_of[index] != fold]
        kept_places = [one for index, one in enumerate(picked) if fold_of[index] != fold]
        curve_samples = Samples(model.feature_size)
        for position, (features, valid) in enumerate(kept_places):
            curve_samples.put(features, valid, position)
        curve = curve_samples.curve(config.shrinkage, seed, kept_groups)
        distinct = len(set(kept_groups))
        factor = calibration(curve, count[fold], config.calibrate, distinct / len(kept_groups))
        support = support_of(count[fold], len(kept_places), config.min_share)
        for index in (index for index in range(number) if fold_of[index] == fold):
            maps = model.map_from((distance[index] * factor)[None], theta[index], support)
            scores[index] = maps.amax().double()
            fitted[index] = distinct
    return scores, fitted


def _one_by_one(
    course: _Course, *sources: tuple[ImageSource, Sequence[int] | None]
) -> Iterator[_Encoded]:
    """The images of some sources, of each those of its indices (None: all)."""
    for source, indices in sources:
        for encoded in course.encode(source, indices):
            for index in range(len(encoded.features)):
                one = slice(index, index + 1)
                yield _Encoded(
                    encoded.features[one],
                    None if encoded.theta is None else encoded.theta[one],
                    None if encoded.valid is None else encoded.valid[one],
                )


def _update(density: DenseGaussian, images: Sequence[_Encoded], group: int) -> None:
    """Take the images into the density, so many at once."""
    waiting = Waiting(group)
    for one in images:
        waiting.add(one.features, one.valid, None)
        if waiting.full:
            density.update(*waiting.take())
    if len(waiting):
        density.update(*waiting.take())
