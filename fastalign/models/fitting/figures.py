"""What a training step logs about its batch, of all processes in one exchange."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fastalign.distributed import World
from fastalign.nn.heads import direction_moments, std_of_directions
from fastalign.nn.transfer import fetched
from fastalign.ops import affine


class EpochFigures:
    """Means over the batches of an epoch, added up where they are and fetched once."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._batches = 0

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """Take in what a batch has logged, scalars by name."""
        for name, value in figures.items():
            value = value.detach().double()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._batches += 1

    def settle(self) -> dict[str, float]:
        """The means by name."""
        if not self._sums:
            return {}
        sums = fetched(torch.stack(list(self._sums.values()))).tolist()
        return {name: total / self._batches for name, total in zip(self._sums, sums, strict=True)}


class BatchFigures:
    """Means over the images of the global batch, and the spread of its directions.

    Arguments:
        world: the processes that hold the images.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._means: dict[str, Tensor] = {}
        self._spreads: list[Tensor] = []

    def add_mean(self, name: str, values: Tensor) -> None:
        """Log the mean of ``values [B]``."""
        values = values.detach().double()
        self._means[name] = torch.stack([values.sum(), values.new_full((), len(values))])

    def add_magnitudes(self, part: str, theta: Tensor, aspect: float) -> None:
        """Log the mean size of the warps theta ``[B,2,3]`` of a part."""
        found = affine.magnitude(theta.detach(), aspect)
        self.add_mean(f"{part}_shift", found["shift"])
        self.add_mean(f"{part}_rotation", found["rotation"].abs())
        self.add_mean(f"{part}_scale", found["scale"])

    def add_spread(self, z: Tensor) -> None:
        """Take in projected features ``[B,C,H,W]``; the least spread is logged as std_of_z."""
        self._spreads.append(direction_moments(z.detach()))

    def settle(self) -> dict[str, Tensor]:
        """The figures by name."""
        parts = [*self._means.values(), *self._spreads]
        if not parts:
            return {}
        sizes = [len(part) for part in parts]
        summed = self._world.sum_(torch.cat(parts), "the figures of a batch").split(sizes)
        means, spreads = summed[: len(self._means)], summed[len(self._means) :]
        figures = {
            name: part[0] / part[1].clamp_min(1)
            for name, part in zip(self._means, means, strict=True)
        }
        if spreads:
            figures["std_of_z"] = torch.stack([std_of_directions(part) for part in spreads]).min()
        return figures
