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
from fastalign.models.density import GaussianFit
from fastalign.models.progress import Progress
from fastalign.models.source import ImageSource, spread

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD

_BATCH = 16
# From so many validation images on, their scores are a threshold's basis by themselves.
_ENOUGH = 20
_FOLDS = 5
# Images that take turns: their features are held in memory.
_MOST = 100


@dataclass(frozen=True)
class _Encoded:
    """Images as the density sees them: features ``[B,C,h,w]``, the warps, where they are valid."""

    features: Tensor
    theta: Tensor | None
    valid: Tensor | None


@torch.no_grad()
def fit_density(
    model: FYD,
    train: ImageSource,
    validation: ImageSource | None,
    seed: int,
    progress: Progress,
    world: World,
) -> None:
    """Fit the Gaussians of a model whose alignment is settled, and set its thresholds.

    The thresholds are a quantile of the scores that normal images get from a density that has not
    seen them: validation images from the density of the training images, or, where they are few
    and join the density in the end anyway (``refit``), all images in turn. Distances shrink with
    the number of images a density is fitted to, and the thresholds shrink by as much.

    Several processes share out the images; where all images take turns, which they do only where
    they are few, the first process does it for all.
    """
    config = model.config
    source = "none: fitted without normal validation images"
    scores, fitted = torch.empty(0, dtype=torch.float64), torch.empty(0)
    few = validation is not None and config.refit and len(validation) < _ENOUGH
    if validation is not None and few:
        scores, fitted = world.once(
            partial(_in_turn, model, train, validation, seed, progress), "the thresholds"
        )
        source = f"{len(scores)} normal images, each scored without itself"
    fit = GaussianFit(model, seed, world)
    _add(fit, model, train, progress, world)
    if validation is not None and few:
        _add(fit, model, validation, progress, world)
    more = validation is not None and not few and config.refit
    curve = fit.finish(keep=more)
    if validation is not None and not few:
        share = world.share(len(validation))
        progress.start("thresholds", len(share))
        own = [torch.empty(0, dtype=torch.float64, device=model.selection.device)]
        with world.together("scoring the validation images"):
            own += [
                _scores(model, encoded) for encoded in _encode(model, validation, progress, share)
            ]
        scores = world.gather_rows(torch.cat(own), "the scores of validation images")
        fitted = torch.full_like(scores, fit.number)
        source = f"{len(scores)} normal validation images"
        if more:
            _add(fit, model, validation, progress, world)
            curve = fit.finish()
    threshold = math.nan
    if len(scores):
        if config.refit and curve is not None:
            now = curve.distance(torch.tensor(fit.number))
            scores = scores * (now / curve.distance(fitted).clamp_min(1e-12)).to(scores)
        threshold = float(scores.quantile(config.threshold_quantile))
        source = f"quantile {config.threshold_quantile:g} of {source}"
    for buffer in (model.image_threshold, model.pixel_threshold):
        buffer.fill_(threshold)
    model._metadata["threshold_source"] = source


def _add(
    fit: GaussianFit, model: FYD, source: ImageSource, progress: Progress, world: World
) -> None:
    share = world.share(len(source))
    progress.start("fitting", len(share))
    fit.pass_over(share.start)
    with world.together("fitting"):
        for encoded in _encode(model, source, progress, share):
            fit.add(encoded.features, encoded.valid)
    fit.pass_over(len(source) - share.stop)


def _encode(
    model: FYD, source: ImageSource, progress: Progress, indices: Sequence[int] | None = None
) -> Iterator[_Encoded]:
    for images, _ in source.batches(_BATCH, indices):
        pose = model.find_pose(images)
        stages, theta = model.encode(model.warp(images, pose), pose)
        yield _Encoded(model.describe(stages), theta, model.valid(theta))
        progress.advance(len(images))


def _scores(model: FYD, encoded: _Encoded) -> Tensor:
    """Image scores ``[B]`` in float64."""
    return model.map_of(encoded.features, encoded.theta).amax((1, 2)).double()


def _in_turn(
    model: FYD, train: ImageSource, validation: ImageSource, seed: int, progress: Progress
) -> tuple[Tensor, Tensor]:
    """Scores of all normal images, each from a density of the others, and how many these were.

    Where there are many training images, some stand for all of them.
    """
    share = spread(len(train), _MOST - len(validation))
    number = len(share) + len(validation)
    progress.start("thresholds", number)
    images = [
        one
        for source, indices in ((train, share), (validation, None))
        for encoded in _encode(model, source, progress, indices)
        for one in _single(encoded)
    ]
    folds = min(_FOLDS, number)
    scores = torch.empty(number, dtype=torch.float64)
    fitted = torch.empty(number)
    for fold in range(folds):
        kept = [one for index, one in enumerate(images) if index % folds != fold]
        fit = GaussianFit(model, seed)
        for features, valid in _batches(kept):
            fit.add(features, valid)
        fit.finish()
        for index in range(fold, number, folds):
            scores[index] = _scores(model, images[index])
            fitted[index] = len(kept)
    return scores, fitted


def _single(encoded: _Encoded) -> Iterator[_Encoded]:
    """The images of a batch one by one."""
    for index in range(len(encoded.features)):
        one = slice(index, index + 1)
        yield _Encoded(
            encoded.features[one],
            None if encoded.theta is None else encoded.theta[one],
            None if encoded.valid is None else encoded.valid[one],
        )


def _batches(images: Sequence[_Encoded]) -> Iterator[tuple[Tensor, Tensor | None]]:
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        valid = [one.valid for one in batch if one.valid is not None]
        yield torch.cat([one.features for one in batch]), torch.cat(valid) if valid else None
