"""Fitting the density and setting the thresholds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastalign.models.progress import Progress
from fastalign.models.source import ImageSource
from fastalign.nn.calibration import CountCalibration

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD

_BATCH = 16


class Samples:
    """Features at a grid of locations, of so many images that a curve can be measured on them."""

    def __init__(self, size: tuple[int, int], side: int = 8, images: int = 256) -> None:
        rows, columns = (
            ((torch.arange(min(side, length)) + 0.5) * length / min(side, length)).long()
            for length in size
        )
        self._places = (rows[:, None] * size[1] + columns).flatten()
        self._most = images
        self._features: list[Tensor] = []
        self._valid: list[Tensor] = []

    def add(self, features: Tensor, valid: Tensor) -> None:
        """Features ``[B,C,h,w]`` and valid ``[B,h,w]`` of a batch."""
        left = self._most - sum(len(kept) for kept in self._features)
        if left > 0:
            places = self._places.to(features.device)
            at_places = features.flatten(2)[:left, :, places]
            self._features.append(at_places.transpose(1, 2).cpu())
            self._valid.append(valid.flatten(1)[:left, places].cpu())

    def curve(self, shrinkage: float, seed: int) -> CountCalibration | None:
        """The calibration, at the best seen half of the places and on the images that show all of
        them; None where that leaves fewer than three images."""
        if not self._features:
            return None
        features, valid = torch.cat(self._features), torch.cat(self._valid)
        ranked = valid.sum(0).argsort(descending=True, stable=True)
        # Fewer places where many images miss one of them.
        for count in (len(ranked) // 2, len(ranked) // 4, len(ranked) // 8, 1):
            places = ranked[: max(1, count)].sort().values
            complete = valid[:, places].all(1)
            if 2 * int(complete.sum()) >= len(valid):
                break
        chosen = features[complete][:, places]
        return None if len(chosen) < 3 else CountCalibration(chosen, shrinkage, seed)


@torch.no_grad()
def fit_density(
    model: FYD,
    train: ImageSource,
    validation: ImageSource | None,
    seed: int,
    progress: Progress,
) -> None:
    """Fit the Gaussians of a model whose alignment is settled, and set its thresholds.

    The thresholds are a quantile of the scores that normal validation images get from the density
    of the training images. With ``refit`` these images are then taken into the density too, and the
    thresholds shrink by as much as distances do with that many more images.
    """
    samples = Samples(model.feature_size)
    model.density.reset()
    progress.start("fitting", len(train))
    _add(model, train, samples, progress)
    refits = validation is not None and model.config.refit
    _finish(model, samples, len(train), seed, keep=refits)
    threshold = math.nan
    if validation is not None:
        progress.start("thresholds", len(validation))
        threshold = _threshold(model, validation, progress)
        if refits:
            progress.start("fitting", len(validation))
            _add(model, validation, samples, progress)
            number = len(train) + len(validation)
            curve = _finish(model, samples, number, seed, keep=False)
            if curve is not None:
                now, before = curve.distance(torch.tensor([number, len(train)])).tolist()
                threshold *= now / max(before, 1e-12)
    for buffer in (model.image_threshold, model.pixel_threshold):
        buffer.fill_(threshold)


def _add(model: FYD, source: ImageSource, samples: Samples, progress: Progress) -> None:
    for images, _ in source.batches(_BATCH):
        pose = model.find_pose(images)
        stages, theta = model.encode(model.warp(images, pose), pose)
        features = model.describe(stages)
        valid = model.valid(theta)
        model.density.update(features, valid)
        if valid is None:
            valid = torch.ones_like(features[:, 0], dtype=torch.bool)
        samples.add(features, valid)
        progress.advance(len(images))


def _finish(
    model: FYD, samples: Samples, number: int, seed: int, *, keep: bool
) -> CountCalibration | None:
    """Turn sums into Gaussians and the curve into the calibration map."""
    config, density = model.config, model.density
    # One image is no distribution where others have more, and all that there is where they do not.
    density.min_count = max(min(2, number), math.ceil(config.min_share * number))
    density.finalize(keep=keep)
    curve = samples.curve(config.shrinkage, seed)
    model.calibration.fill_(1)
    if config.calibrate and curve is not None:
        assert density.count is not None
        factor = curve.factor(density.count.cpu())
        model.calibration.copy_(factor)
    return curve


def _threshold(model: FYD, validation: ImageSource, progress: Progress) -> float:
    scores = []
    for images, _ in validation.batches(_BATCH):
        scores.append(model(images)[0].double())
        progress.advance(len(images))
    return float(torch.cat(scores).quantile(model.config.threshold_quantile))
