"""One :class:`~fastalign.nn.DenseGaussian` from those that the processes have fitted.

The sums are joined along a binary tree, a run of locations at a time: in round k the processes
whose rank is an odd multiple of 2^k send to the one 2^k below. Each process sends its sums once,
and rank 0 has all of them after ``ceil(log2(size))`` rounds. Beside its own sums a process holds
one run of another's, at most ``RUN_BYTES`` of them, and the workspace of a merge.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastalign.distributed.world import World, current
from fastalign.nn.gaussian import DenseGaussian
from fastalign.nn.moments import Moments

RUN_BYTES = 1 << 24

_WHAT = "the merge of densities"


def merge_density(
    density: DenseGaussian, *, world: World | None = None, run_bytes: int = RUN_BYTES
) -> None:
    """Move the sums of all processes' densities into that of rank 0.

    The same as if rank 0 had seen all images, to rounding. The other processes' densities are as
    new afterwards (:meth:`DenseGaussian.reset`).

    Args:
        density: of the same channels and size on all processes; it may have seen no image.
        world: the processes; None: those of the default group.
        run_bytes: size at most of the pieces that travel, at least one location.

    Raises:
        ConfigError: the density of rank 0 was finalized without keeping its sums.
    """
    world = current() if world is None else world
    step = 1
    while step < world.size:
        if world.rank % (2 * step) == step:
            _send(density, world.rank - step, world, run_bytes)
            density.reset()
        elif world.rank % (2 * step) == 0 and world.rank + step < world.size:
            _receive(density, world.rank + step, world, run_bytes)
        step *= 2


def share_density(density: DenseGaussian, *, world: World | None = None) -> None:
    """Give all processes the finalized density of rank 0, to score with.

    While it arrives a process holds it twice; the sums stay on rank 0.
    """
    world = current() if world is None else world
    if world.size == 1:
        return
    own = {name: tensor.contiguous() for name, tensor in density.state_dict().items()}
    shapes, min_count = world.once(
        lambda: ({name: (x.shape, x.dtype) for name, x in own.items()}, density.min_count),
        "the density of all",
    )
    if world.rank == 0:
        tensors = own
    else:
        device = next(density.buffers()).device
        tensors = {
            name: torch.empty(shape, dtype=dtype, device=device)
            for name, (shape, dtype) in shapes.items()
        }
    world.broadcast_(list(tensors.values()), "the density of all")
    if world.rank:
        density.min_count = min_count
        density.reset().load_state_dict(tensors)


def _runs(density: DenseGaussian, run_bytes: int) -> list[slice]:
    locations = density.size[0] * density.size[1]
    channels = density.channels
    each = 8 + 8 * channels + 4 * (channels * (channels + 1) // 2)
    length = max(1, run_bytes // each)
    return [slice(start, min(start + length, locations)) for start in range(0, locations, length)]


def _tensors(sums: Moments) -> tuple[Tensor, Tensor, Tensor]:
    return sums.count, sums.mean, sums.outer


@torch.no_grad()
def _send(density: DenseGaussian, to: int, world: World, run_bytes: int) -> None:
    sums = density.sums
    world.send(torch.tensor([int(sums is not None)], device=world.device), to, _WHAT)
    if sums is None:
        return
    for run in _runs(density, run_bytes):
        for tensor in _tensors(sums.part(run)):
            world.send(tensor, to, _WHAT)


@torch.no_grad()
def _receive(density: DenseGaussian, source: int, world: World, run_bytes: int) -> None:
    told = world.receive_(torch.zeros(1, dtype=torch.int64, device=world.device), source, _WHAT)
    if not int(told):
        return
    own = density.open_sums()
    received: Moments | None = None
    for run in _runs(density, run_bytes):
        length = run.stop - run.start
        if received is None or len(received.count) != length:
            received = Moments(length, density.channels, own.mean.device)
        for tensor in _tensors(received):
            world.receive_(tensor, source, _WHAT)
        own.part(run).merge(received)
