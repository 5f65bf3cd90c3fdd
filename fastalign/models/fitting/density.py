"""The third step: the Gaussians of all locations, and scores of images that they have not seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from fastalign.models.evidence import Evidence
from fastalign.models.fitting.gaussians import GaussianFit
from fastalign.models.fitting.passes import Passes
from fastalign.models.fitting.samples import calibration
from fastalign.models.fitting.setting import Setting
from fastalign.models.fitting.thresholds import HeldOut, Unseen, in_turn
from fastalign.models.fitting.whitening import whiten_features
from fastalign.models.fitting.words import describe_density
from fastalign.models.normal import NormalDistances
from fastalign.models.pieces import split_rows
from fastalign.models.rooms import Rooms
from fastalign.models.thresholds import (
    kept_scores,
    limit_of,
    one_of_twins,
    ordinary,
    whole_record,
)
from fastalign.nn.calibration import CountCalibration
from fastalign.words import count


@dataclass(frozen=True)
class Threshold:
    """A score that normal images stay below.

    Attributes:
        value: the score; NaN where it is not known.
        source: where it comes from, in words.
        normal: the scores that it is a quantile of, as :class:`FitRecord` keeps them; None: none.
        evidence: what an image must show to be judged, by these.
        whole: the largest :func:`whole_distance` of a normal image that the density has not seen,
            as ``distance``, and the largest alignment residual of a normal image, as ``residual``,
            where images are aligned; None: not known.
        prior: of the Gaussians, as :class:`FitRecord` keeps it; None: none.
        density: what the density is, in words.
        warnings: what the user has to know, in sentences.
        distances: what thresholds of regions can be derived from; None: too large to be kept.
        conditions, view: how the normal images were taken, as :class:`FitRecord` keeps it; None:
            they are too few.
        unit: the distance that scores are in units of; None: distances as they are.
        pixel: the same of values of maps.
        pixel_source: where it comes from, in words; None: from the same scores.
    """

    value: float
    source: str
    evidence: Evidence
    prior: Mapping[str, Any] | None = None
    density: str | None = None
    warnings: Sequence[str] = ()
    normal: Mapping[str, Any] | None = None
    whole: Mapping[str, float] | None = None
    distances: NormalDistances | None = None
    conditions: Mapping[str, Any] | None = None
    view: Mapping[str, Any] | None = None
    unit: float | None = None
    pixel: float = math.nan
    pixel_source: str | None = None


@torch.no_grad()
def fit_density(rooms: Rooms, setting: Setting) -> Threshold:
    """Fit the density of rooms whose alignment is settled; returns the threshold.

    The threshold is a quantile of the scores that normal images get from a density that has not
    seen them: validation images from the density of the training images, or, where they are few
    and join the density in the end anyway (``refit``), all images in turn. Distances shrink with
    the number of images a density is fitted to, and the threshold shrinks by as much. Twins count
    as one image: no density that scores one has seen another, and of their scores the largest
    counts.

    Several processes share out the images; where all images take turns, which they do only where
    they are few, the first process does it for all.
    """
    config, world, plan = setting.config, setting.world, setting.plan
    train, validation, survey = setting.train, setting.validation, setting.survey
    gaussians = rooms.density.gaussians
    passes = Passes(rooms, setting)
    floor = whiten_features(passes) if config.reduction == "whiten" else None
    kind, alone = "normal image", ""
    measures, fitted = torch.empty((0, 3), dtype=torch.float64), torch.empty(0)
    unseen: Unseen | None = None
    few = validation is not None and len(setting.turns) > 0
    curve: CountCalibration | None = None
    positions: Sequence[int] = []
    if validation is not None and few:
        positions = setting.turns
        measures, fitted, unseen, curve = world.once(
            partial(in_turn, passes, train, validation, setting, floor), "the thresholds"
        )
        alone = ", each scored without itself"
    fit = GaussianFit(
        gaussians,
        config,
        setting.seed,
        floor,
        survey.groups,
        world,
        plan.group,
    )
    held_out = None
    if validation is not None and not few:
        held_out = HeldOut(passes, validation, survey)
    for rows in split_rows(rooms.density.size[0], plan.bands):
        fit.open(rows)
        passes.add(fit, train)
        if validation is not None and few:
            passes.add(fit, validation)
        fit.settle(keep=held_out is not None and config.refit)
        if held_out is not None:
            held_out.look(fit, rows)
        fit.close()
    if held_out is not None:
        positions = survey.held_out
        of_validation = torch.tensor(positions, dtype=torch.long) - survey.train
        every, fitted, unseen = held_out.measures()
        measures, fitted = every[of_validation], fitted[of_validation]
        if unseen is not None:
            theta = unseen.theta
            unseen = Unseen(
                unseen.distance[of_validation], None if theta is None else theta[of_validation]
            )
        kind = "normal validation image"
    distinct = survey.distinct(fit.number)
    if len(setting.turns) != fit.number:
        # Of other images than took turns.
        curve = fit.curve()
    assert gaussians.count is not None
    share = distinct / fit.number
    factor = calibration(curve, gaussians.count, config.calibrate, share)
    if len(measures) and config.refit and curve is not None:
        ratio = curve.ratio(torch.tensor(distinct), fitted).to(measures)
        measures = measures * ratio[:, None]
        if unseen is not None:
            unseen = Unseen(unseen.distance * ratio.float()[:, None, None], unseen.theta)
    groups = [survey.groups[position] for position in positions]
    unit = ordinary(one_of_twins(measures[:, 2], groups)[0])
    rooms.density.calibrate(factor / (unit or 1))
    if unit is not None:
        measures = measures / unit
        if unseen is not None:
            unseen = Unseen(unseen.distance / unit, unseen.theta)
    scores, wholes, peaks = measures.unbind(1)
    scores, lost = one_of_twins(scores, groups)
    value, pixel, normal, pixel_source = math.nan, math.nan, None, None
    if len(scores):
        value, rule = limit_of(scores.tolist(), config.threshold_quantile)
        peaks, _ = one_of_twins(peaks, groups)
        pixel, of_peaks = limit_of(peaks.tolist(), config.threshold_quantile)
        of = f"{count(len(scores), kind)}{alone}"
        normal = {"of": of, "scores": kept_scores(scores.tolist())}
        source = f"{rule} of {of}"
        if config.top_share > 0:
            pixel_source = f"{of_peaks} of the largest values of the maps of {of}"
    else:
        source = "none: fitted without normal validation images"
    warnings = []
    if lost:
        warnings = [
            f"{count(lost, 'normal image')} could not be judged, with no part in the thresholds: "
            "alignment left nothing to compare, or features are not finite."
        ]
    views = passes.views.settle(world)
    whole = whole_record(wholes, views.largest_residual)
    if validation is None:
        unseen = Unseen(torch.empty((0, *rooms.density.size)), None)
    kept = None
    if unseen is not None:
        kept = NormalDistances(*unseen, groups, views.poses, kind, alone)
    told = describe_density(gaussians, config, fit.priors)
    setting.progress.note(f"density: {told}")
    conditions, view = passes.conditions.settle(world, views.coverage)
    return Threshold(
        value=value,
        source=source,
        pixel=pixel,
        pixel_source=pixel_source,
        unit=unit,
        normal=normal,
        distances=kept,
        whole=whole,
        evidence=views.evidence,
        conditions=conditions,
        view=view,
        prior=fit.priors.record(),
        density=told,
        warnings=warnings,
    )
