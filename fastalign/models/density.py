"""Fitting the Gaussians and the calibration of a model whose alignment is settled."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastalign.distributed import World, merge_density, share_density
from fastalign.models.memory import release_unused
from fastalign.nn.calibration import CountCalibration

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

    def pick(self, features: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """The features ``[B,places,C]`` and valid ``[B,places]`` at the places, of features
        ``[B,C,h,w]`` and valid ``[B,h,w]`` (None: everywhere)."""
        places = self._places.to(features.device)
        at_places = features.flatten(2)[:, :, places].transpose(1, 2).cpu()
        if valid is None:
            return at_places, torch.ones(at_places.shape[:2], dtype=torch.bool)
        return at_places, valid.flatten(1)[:, places].cpu()

    def put(self, features: Tensor, valid: Tensor, first: int) -> None:
        """Take in what :meth:`pick` gave, of a batch whose first image is at the position ``first``
        of all images."""
        number = min(len(features), self._most - first)
        if number > 0:
            self._features.append(features[:number])
            self._valid.append(valid[:number])
            self._positions.append(torch.arange(first, first + number))

    def gathered(self, world: World, channels: int) -> Samples:
        """The samples of all processes together, in the order of their positions."""
        if world.size == 1:
            return self
        places = len(self._places)
        none = torch.empty(0, places, channels), torch.empty(0, places, dtype=torch.bool)
        parts = (self._features, none[0]), (self._valid, none[1]), (self._positions, _NO_POSITIONS)
        every = [
            world.gather_rows(torch.cat([*kept, empty]), "the samples for the calibration")
            for kept, empty in parts
        ]
        order = every[2].argsort()
        together = copy.copy(self)
        together._features, together._valid, together._positions = ([p[order]] for p in every)
        return together

    def curve(self, shrinkage: float, seed: int, groups: Sequence[int]) -> CountCalibration | None:
        """The calibration, at the best seen half of the places and on the images that show all of
        them, of twins (``groups`` by position) the first alone; None where that leaves fewer than
        three images."""
        if not self._features:
            return None
        features, valid = torch.cat(self._features), torch.cat(self._valid)
        positions = torch.cat(self._positions).tolist()
        first = list({groups[p]: i for i, p in reversed(list(enumerate(positions)))}.values())
        if len(first) < len(positions):
            features, valid = features[sorted(first)], valid[sorted(first)]
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

    The Gaussians are fitted a band of rows at a time: :meth:`open` it, :meth:`add` all images,
    :meth:`settle` what was added and :meth:`close` the band. Each band sees the same images in the
    same order; what does not depend on the band is kept from the first.

    Several processes each ``add`` their images and ``pass_over`` those of the others, and
    ``settle`` together.

    Args:
        model: its density is reset here.
        seed: of the calibration.
        groups: the number of each image's group of twins, in the order in which they are added.
        world: the processes that fit together; None: this one.
        group: images whose features enter the Gaussians at once.

    Attributes:
        number: images so far in this band, those of the other processes included.
    """

    def __init__(
        self,
        model: FYD,
        seed: int,
        groups: Sequence[int],
        world: World | None = None,
        group: int = 16,
    ) -> None:
        self._model, self._seed, self._group = model, seed, group
        self._groups = groups
        self._world = world or World()
        self._samples = Samples(model.feature_size)
        self._rows = slice(0, 0)
        self.number = 0
        model.density.reset()

    def open(self, rows: slice) -> None:
        """Begin with the band ``rows`` of the map."""
        density = self._model.density
        self._whole = rows == slice(0, density.size[0])
        self._rows = rows
        self.number = 0
        self._waiting = Waiting(self._group)
        # The first process keeps the sums of all; what the others have seen since the last time is
        # kept apart from the density that they score with.
        self.density = density if self._whole else density.band(rows)
        self._own = density.band(rows) if self._world.rank else self.density

    def add(self, features: Tensor, valid: Tensor | None) -> None:
        """Take in features ``[B,C,h,w]`` and valid ``[B,h,w]`` (None: everywhere)."""
        if self._rows.start == 0:
            self._samples.put(*self._samples.pick(features, valid), self.number)
        self.number += len(features)
        rows = None if self._whole else self._rows
        while len(features):
            taken = self._waiting.add(features, valid, rows)
            features, valid = features[taken:], None if valid is None else valid[taken:]
            if self._waiting.full:
                self._flush()

    def pass_over(self, number: int) -> None:
        """The next images in order, so many, are those of other processes."""
        self.number += number

    def settle(self, *, keep: bool = False) -> None:
        """Make the band score by what was added; with ``keep``, more may follow."""
        number, world = self.number, self._world
        self._flush()
        merge_density(self._own, world=world)
        self.density.min_count = least_count(number, self._model.config.min_share)

        def finalize() -> None:
            self.density.finalize(keep=keep)

        world.once(finalize, "the Gaussians of all images")
        share_density(self.density, world=world)

    def close(self) -> None:
        """Put the band where it belongs in the model's density."""
        if not self._whole:
            self._model.density.put_band(self._rows, self.density)

    def curve(self) -> CountCalibration | None:
        """How distances fall with the number of images, from those that were added to the first
        band so far; None where there are too few to tell."""
        config, world = self._model.config, self._world
        samples = self._samples.gathered(world, self._model.density.channels)
        return world.once(
            lambda: samples.curve(config.shrinkage, self._seed, self._groups), "the calibration"
        )

    def _flush(self) -> None:
        if len(self._waiting):
            self._own.update(*self._waiting.take())
            # Threads that read images ahead leave much behind.
            release_unused()


class Waiting:
    """Features on their way into a density, until they are enough to be worth a pass over it.

    Arguments:
        most: images that are kept at once; their memory is used again and again.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._features = self._valid = torch.empty(0)
        self._number = 0
        self._everywhere = True

    def __len__(self) -> int:
        return self._number

    @property
    def full(self) -> bool:
        """Whether they have to be taken before more are added."""
        return self._number >= self._most

    def add(self, features: Tensor, valid: Tensor | None, rows: slice | None) -> int:
        """Features ``[B,C,h,w]``, of which only ``rows`` are kept (None: all), and valid
        ``[B,h,w]`` or None; returns how many of these images found room."""
        if rows is not None:
            features = features[:, :, rows]
            valid = None if valid is None else valid[:, rows]
        if not len(self._features):
            shape = (self._most, *features.shape[1:])
            # In the order in which the backbone gives them.
            self._features = features.new_empty(shape).to(memory_format=torch.channels_last)
            self._valid = torch.ones_like(self._features[:, 0], dtype=torch.bool)
        number = min(len(features), self._most - self._number)
        place = slice(self._number, self._number + number)
        self._features[place] = features[:number]
        self._valid[place] = True if valid is None else valid[:number]
        self._everywhere &= valid is None
        self._number += number
        return number

    def take(self) -> tuple[Tensor, Tensor | None]:
        """All of them as one batch, which holds until the next one is added."""
        features, valid = self._features[: self._number], self._valid[: self._number]
        everywhere, self._number, self._everywhere = self._everywhere, 0, True
        return features, None if everywhere else valid


def least_count(number: int, share: float) -> int:
    """Images that must have seen a location for it to be scored, of ``number`` in all: one image is
    no distribution where others have more, and all that there is where they do not."""
    return max(min(2, number), math.ceil(share * number))


def support_of(count: Tensor, number: int, share: float) -> Tensor | None:
    """Where counts ``[h,w]`` of ``number`` images are enough; None: everywhere."""
    support = count >= least_count(number, share)
    return None if bool(support.all()) else support


def calibration(
    curve: CountCalibration | None, count: Tensor, wanted: bool, distinct: float
) -> Tensor:
    """Factors of distances ``[h,w]`` for counts ``[h,w]``, of which the share ``distinct`` is of
    different images; 1 where there is no curve or none is wanted."""
    if curve is None or not wanted:
        return torch.ones(count.shape, device=count.device)
    return curve.factor(count.cpu() * distinct).to(count.device)
