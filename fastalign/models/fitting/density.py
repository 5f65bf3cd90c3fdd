"""The third step: the Gaussians of all locations, and scores of images that they have not seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastalign.models.evidence import Evidence
from fastalign.models.fitting.gaussians import GaussianFit
from fastalign.models.fitting.passes import Passes
from fastalign.models.fitting.samples import calibration
from fastalign.models.fitting.setting import Setting
from fastalign.models.fitting.thresholds import HeldOut, in_turn
from fastalign.models.fitting.whitening import find_whitening
from fastalign.models.pieces import split_rows
from fastalign.models.rooms import Rooms
from fastalign.models.thresholds import kept_scores
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
        prior: of the Gaussians' covariances, as :class:`FitRecord` keeps it; None: none.
        warnings: what the user has to know, in sentences.
    """

    value: float
    source: str
    evidence: Evidence
    prior: Mapping[str, Any] | None = None
    warnings: Sequence[str] = ()
    normal: Mapping[str, Any] | None = None
    whole: Mapping[str, float] | None = None


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
    floor = None
    if config.reduction == "whiten":
        whitening = find_whitening(passes)
        rooms.density.project(whitening.directions)
        rooms.settle()
        floor = whitening.floor
    kind, alone = "normal image", ""
    measures, fitted = torch.empty((0, 2), dtype=torch.float64), torch.empty(0)
    few = validation is not None and len(setting.turns) > 0
    positions: Sequence[int] = []
    if validation is not None and few:
        positions = setting.turns
        measures, fitted = world.once(
            partial(in_turn, passes, train, validation, setting, floor), "the thresholds"
        )
        alone = ", each scored without itself"
    fit = GaussianFit(
        gaussians,
        config.min_share,
        setting.seed,
        config.prior,
        config.shrinkage,
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
        measures, fitted = (values[of_validation] for values in held_out.measures())
        kind = "normal validation image"
    distinct = survey.distinct(fit.number)
    curve = fit.curve()
    assert gaussians.count is not None
    share = distinct / fit.number
    rooms.density.calibrate(calibration(curve, gaussians.count, config.calibrate, share))
    if len(measures) and config.refit and curve is not None:
        ratio = curve.ratio(torch.tensor(distinct), fitted).to(measures)
        measures = measures * ratio[:, None]
    scores, wholes = measures.unbind(1)
    scores, lost = _one_of_twins(scores, [survey.groups[position] for position in positions])
    value, normal = math.nan, None
    if len(scores):
        value = float(scores.quantile(config.threshold_quantile))
        of = f"{count(len(scores), kind)}{alone}"
        normal = {"of": of, "scores": kept_scores(scores.tolist())}
        source = f"quantile {config.threshold_quantile:g} of {of}"
    else:
        source = "none: fitted without normal validation images"
    warnings = []
    if lost:
        warnings = [
            f"{count(lost, 'normal image')} could not be judged, with no part in the thresholds: "
            "alignment left nothing to compare, or features are not finite."
        ]
    views = passes.views.settle(world)
    whole = _whole(wholes, views.largest_residual)
    prior = None if fit.prior is None else fit.prior.to_json()
    return Threshold(value, source, views.evidence, prior, warnings, normal, whole)


def _whole(distances: Tensor, residual: float) -> dict[str, float] | None:
    known = distances[distances.isfinite()]
    if not len(known):
        return None
    found = {"distance": float(known.max())}
    return {**found, "residual": residual} if math.isfinite(residual) else found


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
