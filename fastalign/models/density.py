"""Fitting the Gaussians and the calibration of a model whose alignment is settled."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastalign.distributed import World, merge_density, share_density
from fastalign.nn.calibration import CountCalibration
from fastalign.nn.gaussian import DenseGaussian

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD

_NO_POSITIONS = torch.empty(0, dtype=torch.int64)


class Samples:
    """Features at a grid of locations, of the first images, so many that a curve can be measured on
    them."""

    def __init__(self, size: tuple[int, int], side: int = 8, images: int = 256) -> None:
        rows, columns = (
            ((torch.arange(min(side, length)) + 0.5) * length / min(side, length)).long()
            for length in size
        )
        self._places = (rows[:, None] * size[1] + columns).flatten()
        self._most = images
        self._features: list[Tensor] = []
        self._valid: list[Tensor] = []
        self._positions: list[Tensor] = []

    def add(self, features: Tensor, valid: Tensor, first: int) -> None:
        """Features ``[B,C,h,w]`` and valid ``[B,h,w]`` of a batch, whose first image is at the
        position ``first`` of all images."""
        number = min(len(features), self._most - first)
        if number > 0:
            places = self._places.to(features.device)
            at_places = features.flatten(2)[:number, :, places]
            self._features.append(at_places.transpose(1, 2).cpu())
            self._valid.append(valid.flatten(1)[:number, places].cpu())
            self._positions.append(torch.arange(first, first + number))

    def gather(self, world: World, channels: int) -> None:
        """Bring the samples of all processes together, in the order of their positions."""
        if world.size == 1:
            return
        places = len(self._places)
        none = torch.empty(0, places, channels), torch.empty(0, places, dtype=torch.bool)
        parts = (self._features, none[0]), (self._valid, none[1]), (self._positions, _NO_POSITIONS)
        gathered = [
            world.gather_rows(torch.cat([*kept, empty]), "the samples for the calibration")
            for kept, empty in parts
        ]
        order = gathered[2].argsort()
        self._features, self._valid, self._positions = ([part[order]] for part in gathered)

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

    Several processes each ``add`` their images and ``pass_over`` those of the others, and
    ``finish`` together.

    Args:
        model: its density is reset here.
        seed: of the calibration.
        world: the processes that fit together; None: this one.

    Attributes:
        number: images so far, those of the other processes included.
    """

    def __init__(self, model: FYD, seed: int, world: World | None = None) -> None:
        self._model, self._seed = model, seed
        self._world = world or World()
        self._samples = Samples(model.feature_size)
        self.number = 0
        model.density.reset()
        density = model.density
        # The first process keeps the sums of all; what the others have seen since the last time is
        # kept apart from the density that they score with.
        self._own = density
        if self._world.rank:
            device = model.selection.device
            self._own = DenseGaussian(density.channels, density.size).to(device)

    def add(self, features: Tensor, valid: Tensor | None) -> None:
        """Take in features ``[B,C,h,w]`` and valid ``[B,h,w]`` (None: everywhere)."""
        self._own.update(features, valid)
        if valid is None:
            valid = torch.ones_like(features[:, 0], dtype=torch.bool)
        self._samples.add(features, valid, self.number)
        self.number += len(features)

    def pass_over(self, number: int) -> None:
        """The next images in order, so many, are those of other processes."""
        self.number += number

    def finish(self, *, keep: bool = False) -> CountCalibration | None:
        """Make the model score by what was taken in; with ``keep``, more may follow.

        Returns:
            How distances fall with the number of images; None where there are too few to tell.
        """
        model, number, world = self._model, self.number, self._world
        config, density = model.config, model.density
        merge_density(self._own, world=world)
        # One image is no distribution where others have more, and all that there is where they do
        # not.
        density.min_count = max(min(2, number), math.ceil(config.min_share * number))

        def settle() -> None:
            density.finalize(keep=keep)

        world.once(settle, "the Gaussians of all images")
        share_density(density, world=world)
        self._samples.gather(world, density.channels)
        curve = world.once(
            lambda: self._samples.curve(config.shrinkage, self._seed), "the calibration"
        )
        model.calibration.fill_(1)
        if config.calibrate and curve is not None:
            assert density.count is not None
            model.calibration.copy_(curve.factor(density.count.cpu()))
        return curve
