"""Averaging gradients over the processes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fastalign.distributed.world import World, current


def average_gradients(parameters: Iterable[nn.Parameter], *, world: World | None = None) -> None:
    """Replace each gradient by its mean over the processes, in one all-reduce per dtype.

    With the losses of this package the mean is the gradient of the loss of the global batch. All
    processes give the same parameters in the same order. A parameter without a gradient on some
    process counts there as 0; without one on any process it keeps none, so that an optimizer
    leaves it alone as it does in a single process.

    Args:
        parameters: of this process; a copy of all gradients is held for the exchange.
        world: the processes; None: those of the default group.
    """
    world = current() if world is None else world
    if world.size == 1:
        return
    kinds: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
    for parameter in parameters:
        kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    for members in kinds.values():
        _average(members, world)


@torch.no_grad()
def _average(parameters: list[nn.Parameter], world: World) -> None:
    like = parameters[0]
    has = [parameter.grad is not None for parameter in parameters]
    pieces = [like.new_tensor(has)]
    pieces += [
        like.new_zeros(parameter.numel()) if parameter.grad is None else parameter.grad.flatten()
        for parameter in parameters
    ]
    flat = world.sum_(torch.cat(pieces), "the mean of gradients")
    # Where every parameter has a gradient here nothing needs to be known of the others: no wait.
    somewhere = has if all(has) else [count > 0 for count in flat[: len(has)].tolist()]
    flat = flat[len(has) :].div_(world.size)
    parts: tuple[Tensor, ...] = flat.split([parameter.numel() for parameter in parameters])
    for parameter, part, present in zip(parameters, parts, somewhere, strict=True):
        if present:
            value = part.view(parameter.shape)
            if parameter.grad is None:
                parameter.grad = value.clone()
            else:
                parameter.grad.copy_(value)
