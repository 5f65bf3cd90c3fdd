"""Features of some locations, kept while the Gaussians are fitted: their prior and calibration."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from fastalign.distributed import World
from fastalign.nn.calibration import CountCalibration
from fastalign.nn.directions import Whitening, whitening_again
from fastalign.nn.low_rank import LowRank
from fastalign.nn.mean_prior import MeanPrior
from fastalign.nn.prior import CovariancePrior
from fastalign.nn.transfer import fetched, sent

# Windows each way.
_WINDOWS = 4
_NO_POSITIONS = torch.empty(0, dtype=torch.int64)


class Samples:
    """Features at a grid of locations, of the first images, so many that a prior and a curve can be
    measured on them.

    Arguments:
        size: height and width of the maps.
        side: lines of the grid each way, at most.
        images: at most.
        radius: of windows around some locations, for the curve of densities of low rank; None:
            there are none.
    """

    def __init__(
        self,
        size: tuple[int, int],
        side: int = 16,
        images: int = 256,
        radius: int | None = None,
    ) -> None:
        rows, columns = (_spread(length, side) for length in size)
        grid = rows[:, None] * size[1] + columns
        windows = torch.empty((0, 0), dtype=torch.int64)
        if radius is not None:
            near = torch.arange(-radius, radius + 1)
            down, across = (
                (_spread(length, _WINDOWS)[:, None] + near).clamp(0, length - 1) for length in size
            )
            around = down[:, None, :, None] * size[1] + across[None, :, None, :]
            windows = around.flatten(2).flatten(0, 1)
        self._grid, self._windows = grid.numel(), windows.shape
        self._places = torch.cat([grid.flatten(), windows.flatten()])
        # A curve takes many factorizations at each place, and half of the grid's lines do.
        coarse = torch.zeros_like(grid, dtype=torch.bool)
        coarse[::2, ::2] = True
        self._coarse = coarse.flatten()
        self._most = images
        self._features: list[Tensor] = []
        self._valid: list[Tensor] = []
        self._positions: list[Tensor] = []

    def empty(self) -> Samples:
        """Those of the same places, without images."""
        empty = copy.copy(self)
        empty._features, empty._valid, empty._positions = [], [], []
        return empty

    def pick(self, features: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """The features ``[B,places,C]`` and valid ``[B,places]`` at the places, of features
        ``[B,C,h,w]`` and valid ``[B,h,w]`` (None: everywhere), where these are."""
        places = sent(self._places, features.device)
        at_places = features.flatten(2)[:, :, places].transpose(1, 2).contiguous()
        if valid is None:
            return at_places, torch.ones_like(at_places[..., 0], dtype=torch.bool)
        return at_places, valid.flatten(1)[:, places]

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
        features, valid = self._fetched() if self._features else none
        own = [features], [valid], self._positions
        parts = zip(own, (*none, _NO_POSITIONS), strict=True)
        every = [
            world.gather_rows(torch.cat([*kept, empty]), "the samples for the calibration")
            for kept, empty in parts
        ]
        order = every[2].argsort()
        together = copy.copy(self)
        together._features, together._valid, together._positions = ([p[order]] for p in every)
        return together

    def prior(
        self,
        strength: float | None,
        shrinkage: float | None,
        groups: Sequence[int],
        floor: Tensor | None = None,
    ) -> CovariancePrior | None:
        """What the places have in common, from images of which of twins (``groups`` by position)
        the first alone counts; None where no prior is wanted (strength 0) or nothing varies.

        Args:
            strength, shrinkage: None: learned, see :class:`CovariancePrior`.
            floor: see there.
        """
        if strength == 0 or not self._features:
            return None
        features, valid = self._of_grid(groups)
        return CovariancePrior.of_samples(
            features, valid, strength=strength, shrinkage=shrinkage, floor=floor
        )

    def mean_prior(self, towards: str, groups: Sequence[int]) -> MeanPrior | None:
        """What held-out images say the means should be drawn to, of images as above; see
        :class:`MeanPrior`."""
        if towards == "own" or not self._features:
            return None
        features, valid = self._distinct(groups)
        shape = len(features), *self._windows
        windows = features[:, self._grid :].reshape(*shape, -1)
        around = valid[:, self._grid :].reshape(shape)
        grid = features[:, : self._grid], valid[:, : self._grid]
        return MeanPrior.of_samples(*grid, windows, around, towards)

    def whitening(self, number: int, groups: Sequence[int]) -> Whitening:
        """The whitening to so many directions, of the samples of images of which of twins
        (``groups`` by position) the first alone counts."""
        return Whitening.of_samples(*self._of_grid(groups), number)

    def whitening_again(self, groups: Sequence[int], floor: Tensor) -> Tensor:
        """See :func:`fastalign.nn.directions.whitening_again`, of the samples as above."""
        return whitening_again(*self._of_grid(groups), floor)

    def curve(
        self,
        shrinkage: float,
        seed: int,
        groups: Sequence[int],
        prior: CovariancePrior | None = None,
        form: LowRank | None = None,
        mean: MeanPrior | None = None,
    ) -> CountCalibration | None:
        """The calibration of Gaussians with this shrinkage, or these priors and form, at the best
        seen half of the places and on the images that show all of them, of twins (``groups`` by
        position) the first alone; None where that leaves fewer than three images."""
        if not self._features:
            return None
        if form is not None:
            return self._of_windows(form, seed, groups, mean)
        features, valid = (part[:, self._coarse] for part in self._of_grid(groups))
        places, complete = _best_seen(valid, valid.shape[1] // 2)
        # Many small factorizations: where the images are described.
        chosen = features[complete][:, places].to(self._features[0].device)
        if len(chosen) < 3:
            return None
        return CountCalibration(chosen, shrinkage, seed, prior, mean)

    def _of_windows(
        self, form: LowRank, seed: int, groups: Sequence[int], mean: MeanPrior | None
    ) -> CountCalibration | None:
        """The curve at the best seen windows, on the images that show all of them."""
        features, valid = (part[:, self._grid :] for part in self._distinct(groups))
        shape = len(features), *self._windows
        features, valid = features.view(*shape, -1), valid.view(shape).all(2)
        places, complete = _best_seen(valid, valid.shape[1])
        chosen = features[complete][:, places].to(self._features[0].device)
        return None if len(chosen) < 3 else CountCalibration.of_windows(chosen, form, seed, mean)

    def _fetched(self) -> tuple[Tensor, Tensor]:
        """Features and valid of all images, on the CPU."""
        return fetched(torch.cat(self._features)), fetched(torch.cat(self._valid))

    def _of_grid(self, groups: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Features and valid at the grid, as :meth:`_distinct`."""
        features, valid = self._distinct(groups)
        return features[:, : self._grid], valid[:, : self._grid]

    def _distinct(self, groups: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Features and valid of the images, of twins the first alone."""
        features, valid = self._fetched()
        positions = torch.cat(self._positions).tolist()
        first = list({groups[p]: i for i, p in reversed(list(enumerate(positions)))}.values())
        if len(first) == len(positions):
            return features, valid
        return features[sorted(first)], valid[sorted(first)]


def _spread(length: int, number: int) -> Tensor:
    """So many of ``range(length)``, or all, evenly spread."""
    number = min(number, length)
    return ((torch.arange(number) + 0.5) * length / number).long()


def _best_seen(valid: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Of places that images show, ``valid [N,P]``, so many that are seen best, and the images,
    bool ``[N]``, that show all of them; fewer places where these are not half of the images."""
    ranked = valid.sum(0).argsort(descending=True, stable=True)
    for count in (number, number // 2, number // 4, 1):
        places = ranked[: max(1, count)].sort().values
        complete = valid[:, places].all(1)
        if 2 * int(complete.sum()) >= len(valid):
            break
    return places, complete


def calibration(
    curve: CountCalibration | None, count: Tensor, wanted: bool, distinct: float
) -> Tensor:
    """Factors of distances ``[h,w]`` for counts ``[h,w]``, of which the share ``distinct`` is of
    different images; 1 where there is no curve or none is wanted."""
    if curve is None or not wanted:
        return torch.ones(count.shape, device=count.device)
    return curve.factor(count.cpu() * distinct).to(count.device)
