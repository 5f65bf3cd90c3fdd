"""``pairwise_distance_loss`` over the images of all processes.

Every pair needs both images, but only location by location. So the images change hands once: each
process gets all images at its share of the locations, runs the op there, and sends the gradient
back. It sends and receives its own images, not those of all the others, and the pairs are shared
out evenly whatever the processes hold.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastalign import ops
from fastalign.distributed.similarity import sum_to_all
from fastalign.distributed.world import World, current
from fastalign.ops import arguments, checks

_NAME = "pairwise_distance"


class _Stripes:
    """Which process holds how many images, and which locations it is given."""

    def __init__(self, world: World, images: int, locations: int) -> None:
        self._world = world
        self.images = world.gather_count(images, "the sizes of the batches")
        self.locations = [
            len(World(rank, world.size).share(locations)) for rank in range(world.size)
        ]
        self.own = self.locations[world.rank]

    def there(self, values: Tensor) -> Tensor:
        """``[B,C,L]``, all locations of this process's images, to ``[N,C,l]``, its share of the
        locations of all images."""
        channels = values.shape[1]
        flat = torch.cat([part.flatten() for part in values.split(self.locations, 2)])
        send = [len(values) * channels * length for length in self.locations]
        receive = [count * channels * self.own for count in self.images]
        received = self._world.exchange(flat, send, receive, "the exchange of warped images")
        return received.view(sum(self.images), channels, self.own)

    def back(self, stripe: Tensor) -> Tensor:
        """The inverse of :meth:`there`."""
        channels, count = stripe.shape[1], self.images[self._world.rank]
        send = [images * channels * self.own for images in self.images]
        receive = [count * channels * length for length in self.locations]
        received = self._world.exchange(
            stripe.flatten(), send, receive, "the exchange of gradients of warped images"
        )
        parts = received.split(receive)
        return torch.cat(
            [
                part.view(count, channels, length)
                for part, length in zip(parts, self.locations, strict=True)
            ],
            2,
        )


class _ToStripes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, stripes: _Stripes) -> Tensor:
        ctx.stripes = stripes
        return stripes.there(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.stripes.back(grad), None


def pairwise_distance_loss(
    h: Tensor,
    mask: Tensor | None = None,
    groups: Tensor | None = None,
    *,
    squared: bool = False,
    world: World | None = None,
) -> Tensor:
    """:func:`fastalign.ops.pairwise_distance_loss` over the images of all processes: one value.

    Its gradients are to be averaged over the processes, by :func:`average_gradients` or by
    ``DistributedDataParallel``.

    Args:
        h: this process's images ``[B,C,H,W]``, B may be 0; C, H, W and dtype are the same on all
            processes.
        mask, groups, squared: as for the op; all processes give a mask or none, and groups or none.
        world: the processes; None: those of the default group.

    Raises:
        ValueError, TypeError: as the op.
    """
    world = current() if world is None else world
    if world.size == 1:
        return ops.pairwise_distance_loss(h, mask, groups, squared=squared)
    checks.features(_NAME, "h", h)
    arguments.mask("h").check(_NAME, mask, "h", h)
    arguments.groups("h").check(_NAME, groups, "h", h)
    locations = h.shape[2] * h.shape[3]
    stripes = _Stripes(world, len(h), locations)
    all_h = _ToStripes.apply(h.flatten(2), stripes).unsqueeze(2)
    all_valid = None
    if mask is not None:
        all_valid = stripes.there(mask.flatten(1).unsqueeze(1).to(torch.uint8)) > 0
    all_groups = None if groups is None else world.gather_rows(groups, "the groups of the images")
    loss = ops.pairwise_distance_loss(all_h, all_valid, all_groups, squared=squared)
    return sum_to_all(loss * (stripes.own / max(1, locations)), world, "the distance loss")
