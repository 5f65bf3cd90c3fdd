"""Fitting the Gaussians of all locations, a band of rows at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from fastalign.distributed import World, merge_density, share_density
from fastalign.models.config import FYDConfig
from fastalign.models.fitting.priors import Priors
from fastalign.models.fitting.samples import Samples
from fastalign.models.memory.sizes import release_unused
from fastalign.nn.calibration import CountCalibration
from fastalign.nn.gaussian import DenseGaussian


class GaussianFit:
    """A fit of the Gaussians of a density, and of their calibration, from the beginning.

    The Gaussians are fitted a band of rows at a time: :meth:`open` it, :meth:`add` all images,
    :meth:`settle` what was added and :meth:`close` the band. Each band sees the same images in the
    same order; what does not depend on the band is kept from the first.

    Several processes each ``add`` their images and ``pass_over`` those of the others, and
    ``settle`` together.

    Args:
        gaussians: they are reset here.
        config: what share of the images must have seen a location for it to be scored, and what
            covariances are.
        seed: of the calibration.
        floor: of the prior, see :meth:`Samples.prior`.
        groups: the number of each image's group of twins, in the order in which they are added.
        world: the processes that fit together; None: this one.
        group: images whose features enter the Gaussians at once.

    Attributes:
        number: images so far in this band, those of the other processes included.
        priors: of the last :meth:`settle`.
    """

    def __init__(
        self,
        gaussians: DenseGaussian,
        config: FYDConfig,
        seed: int,
        floor: Tensor | None,
        groups: Sequence[int],
        world: World | None = None,
        group: int = 16,
    ) -> None:
        self._gaussians, self._config = gaussians, config
        self._seed, self._groups, self._group = seed, groups, group
        self._floor = floor
        # By the number of images: the first band has seen all that the others will.
        self._priors: dict[int, Priors] = {}
        self._world = world or World()
        self._samples = samples_for(config, gaussians.size)
        self._rows = self._around = slice(0, 0)
        self.number = 0
        self.priors = Priors()
        gaussians.reset()

    def open(self, rows: slice) -> None:
        """Begin with the band ``rows`` of the map."""
        density = self._gaussians
        self._rows = rows
        self._around = rows_around(rows, self._config, density.size[0])
        self._whole = self._around == slice(0, density.size[0])
        self.number = 0
        self._waiting = Waiting(self._group)
        # The first process keeps the sums of all; what the others have seen since the last time is
        # kept apart from the density that they score with.
        self.density = density if self._whole else density.band(self._around)
        self._own = density.band(self._around) if self._world.rank else self.density

    def add(self, features: Tensor, valid: Tensor | None) -> None:
        """Take in features ``[B,C,h,w]`` and valid ``[B,h,w]`` (None: everywhere)."""
        if self._rows.start == 0:
            self._samples.put(*self._samples.pick(features, valid), self.number)
        self.number += len(features)
        rows = None if self._whole else self._around
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
        min_count = least_count(number, self._config.min_share)
        options = self._priors_of(number).options(self._config, number)

        def finalize() -> None:
            self.density.finalize(keep=keep, min_count=min_count, **options)

        world.once(finalize, "the Gaussians of all images")
        share_density(self.density, world=world)

    def close(self) -> None:
        """Put the band where it belongs."""
        if not self._whole:
            self._gaussians.put_band(self._rows, self.density, self._inner.start)

    @property
    def _inner(self) -> slice:
        """The rows of the band among those around it."""
        return slice(self._rows.start - self._around.start, self._rows.stop - self._around.start)

    @property
    def count(self) -> Tensor:
        """In how many images the locations of the band were valid, as of the last :meth:`settle`:
        ``[rows,w]``."""
        return self.density.count[self._inner]

    def score(self, features: Tensor) -> Tensor:
        """Distances ``[B,rows,w]`` of features ``[B,C,h,w]`` at the locations of the band, as of
        the last :meth:`settle`."""
        return self.density(features[:, :, self._rows], self._inner)

    def curve(self) -> CountCalibration | None:
        """How distances fall with the number of images, from those that were added to the first
        band so far; None where there are too few to tell."""
        samples = self._samples.gathered(self._world, self._gaussians.channels)
        options = self._gaussians.shrinkage, self._seed, self._groups, self.number
        measure = partial(self.priors.curve, samples, self._config, *options)
        return self._world.once(measure, "the calibration")

    def _priors_of(self, number: int) -> Priors:
        if number not in self._priors:
            samples = self._samples.gathered(self._world, self._gaussians.channels)
            options = self._config, self._groups, self._floor, self._config.prior
            measure = partial(Priors.of, samples, *options)
            self._priors[number] = self._world.once(measure, "the priors of the Gaussians")
        self.priors = self._priors[number]
        return self.priors

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


def samples_for(config: FYDConfig, size: tuple[int, int]) -> Samples:
    """Samples of maps of ``size`` without images, for what priors and the curve of a fit need."""
    return Samples(size, radius=config.neighbours if config.reduction == "whiten" else None)


def rows_around(rows: slice, config: FYDConfig, height: int) -> slice:
    """The rows of a map that must be summed up for the means and covariances of ``rows``."""
    margin = config.neighbours if config.reduction == "whiten" else 0
    return slice(max(0, rows.start - margin), min(height, rows.stop + margin))


def least_count(number: int, share: float) -> int:
    """Images that must have seen a location for it to be scored, of ``number`` in all: one image is
    no distribution where others have more, and all that there is where they do not."""
    return max(min(2, number), math.ceil(share * number))


def support_of(count: Tensor, number: int, share: float) -> Tensor | None:
    """Where counts ``[h,w]`` of ``number`` images are enough; None: everywhere."""
    support = count >= least_count(number, share)
    return None if bool(support.all()) else support
