"""Fitting the Gaussians and the calibration of a model whose alignment is settled."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastalign.nn.calibration import CountCalibration

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD


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


class GaussianFit:
    """A fit of the Gaussians and the calibration of ``model`` from the beginning.

    Args:
        model: its density is reset here.
        seed: of the calibration.
    """

    def __init__(self, model: FYD, seed: int) -> None:
        self._model, self._seed = model, seed
        self._samples = Samples(model.feature_size)
        self.number = 0
        model.density.reset()

    def add(self, features: Tensor, valid: Tensor | None) -> None:
        """Take in features ``[B,C,h,w]`` and valid ``[B,h,w]`` (None: everywhere)."""
        self._model.density.update(features, valid)
        if valid is None:
            valid = torch.ones_like(features[:, 0], dtype=torch.bool)
        self._samples.add(features, valid)
        self.number += len(features)

    def finish(self, *, keep: bool = False) -> CountCalibration | None:
        """Make the model score by what was taken in; with ``keep``, more may follow.

        Returns:
            How distances fall with the number of images; None where there are too few to tell.
        """
        model, number = self._model, self.number
        config, density = model.config, model.density
        # One image is no distribution where others have more, and all that there is where they do
        # not.
        density.min_count = max(min(2, number), math.ceil(config.min_share * number))
        density.finalize(keep=keep)
        curve = self._samples.curve(config.shrinkage, self._seed)
        model.calibration.fill_(1)
        if config.calibrate and curve is not None:
            assert density.count is not None
            model.calibration.copy_(curve.factor(density.count.cpu()))
        return curve
