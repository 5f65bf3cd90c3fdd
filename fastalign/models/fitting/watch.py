"""What goes wrong in training, seen while it runs: collapse, runaway warps, infinite losses."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from fastalign.distributed import World
from fastalign.errors import CollapseWarning, RunawayWarpWarning
from fastalign.nn.spatial_align import SpatialAlign
from fastalign.nn.transfer import fetched
from fastalign.ops import affine

# Below this spread of directions (1: isotropic) the features are called collapsed.
_COLLAPSED = 0.05
# A warp whose mean over an epoch lies beyond this share of a bound has run away.
_RUNAWAY = 0.9


class Watch:
    """How close the parameters of a spatial transformer come to their bounds, while it is used."""

    def __init__(self, layer: SpatialAlign) -> None:
        self._layer = layer
        self._sum = torch.zeros_like(layer.bounds)
        self._images = 0
        self._joined: Tensor | None = None
        self._handle = layer.head.register_forward_hook(self._add)

    def _add(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self._sum += torch.tanh(output.detach().float() / self._layer.bounds).sum(0)
        self._images += len(output)

    def end(self) -> None:
        """Stop watching."""
        self._handle.remove()

    def join(self, world: World) -> None:
        """Take in what the other processes have seen."""
        self._joined = world.sum_(self._seen(), "the size of warps")

    def reached(self) -> str | None:
        """The parameter whose mean lies at its bound, None where none does."""
        seen = self._seen() if self._joined is None else self._joined
        *sums, images = fetched(seen).tolist()
        shares = [abs(total) / max(1, images) for total in sums]
        worst = max(range(len(shares)), key=shares.__getitem__)
        return affine.FAMILIES[self._layer.family][worst] if shares[worst] > _RUNAWAY else None

    def _seen(self) -> Tensor:
        """The sums of the parameters and the number of images, one behind the other."""
        return torch.cat([self._sum, self._sum.new_full((1,), self._images)])


def warn_of(figures: dict[str, float], watches: dict[str, Watch], epoch: int) -> None:
    """Warn where an epoch's figures or warps have gone astray."""
    where = f"epoch {epoch + 1}"
    if not all(math.isfinite(value) for value in figures.values()):
        warnings.warn(
            f"{where}: a loss is not finite ({figures}); lower learning_rate or ica_learning_rate.",
            RuntimeWarning,
            stacklevel=2,
        )
    if figures.get("std_of_z", 1.0) < _COLLAPSED:
        warnings.warn(
            f"{where}: the projected features have collapsed (std of normalised z "
            f"{figures['std_of_z']:.3f}, 1 is isotropic); lower learning_rate or leave FA out.",
            CollapseWarning,
            stacklevel=2,
        )
    for name, watch in watches.items():
        reached = watch.reached()
        if reached is not None:
            warnings.warn(
                f"{where}: the warp of {name} has run to the bound of its {reached}; it may "
                "hide the part to lower its loss: use a smaller family, or the teacher.",
                RunawayWarpWarning,
                stacklevel=2,
            )
