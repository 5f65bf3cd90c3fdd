"""``dense_similarity`` over the images of all processes.

With ``sum over b != a of p^_a . z^_b = p^_a . (S - z^_a)`` a process needs nothing of the others'
images but their share of S, ``[G,C,H,W]`` for G groups, and of the groups' sizes: one all-reduce of
``G (C H W + 1)`` numbers, whatever the number of images. Where z takes part in training, the
gradient through S is one more such sum, of the weighted p^, on the way back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastalign import ops
from fastalign.distributed.world import World, current
from fastalign.ops import arguments, checks
from fastalign.ops.layout import as_gradient
from fastalign.ops.reference.dense_similarity import (
    Sums,
    accumulate,
    gradient_p,
    gradient_z,
    similarity,
    weighted,
)
from fastalign.ops.reference.groups import Slots, sum_by_slot
from fastalign.ops.reference.vectors import Directions, directions

_NAME = "dense_similarity"


class Targets:
    """The targets z of a batch; their sum over all processes starts on its way when it is made.

    So the exchange and what makes p overlap::

        targets = Targets(z.detach())
        loss = targets.loss(predictor(z))

    Arguments:
        z: this process's targets ``[B,C,H,W]``, B may be 0; C, H, W and dtype are the same on all
            processes. Detach it for a stopped gradient.
        groups: int64 ``[B]``, labels that hold across the processes; None, on all of them: one
            group.
        world: the processes; None: those of the default group.

    Raises:
        ValueError, TypeError: as :func:`fastalign.ops.dense_similarity`.
    """

    def __init__(
        self, z: Tensor, groups: Tensor | None = None, *, world: World | None = None
    ) -> None:
        checks.features(_NAME, "z", z)
        arguments.groups("z").check(_NAME, groups, "z", z)
        self.z, self.groups = z, groups
        self.world = current() if world is None else world
        if self.world.size == 1:
            return
        with torch.no_grad():
            self._where = self._slots()
            self._directions = directions(z.detach())
            own = accumulate(self._directions.unit, self._where)
            flat = torch.cat([own.vectors.flatten(), own.images])
            self._pending = self.world.start_sum(flat, "the sum of targets")

    def similarity(self, p: Tensor) -> Tensor:
        """Mean cosine of each image of p ``[B,C,H,W]`` with the others of its group, wherever they
        are: ``[B,H,W]``. See :func:`dense_similarity`."""
        if self.world.size == 1:
            return ops.dense_similarity(p, self.z, self.groups)
        widest = torch.promote_types(p.dtype, self.z.dtype)
        p, z = p.to(widest), self.z.to(widest)
        checks.features(_NAME, "p", p)
        checks.shape(_NAME, "p", p, z.shape, "[B, C, H, W] of z")
        checks.device(_NAME, "p", p, "z", z)
        return _Similarity.apply(p, z, self)

    def loss(self, p: Tensor) -> Tensor:
        """Minus the mean of :meth:`similarity` over the images of all processes and the locations:
        the same scalar on all of them. See :func:`dense_similarity_loss`."""
        if self.world.size == 1:
            return ops.dense_similarity_loss(p, self.z, self.groups)
        local = self.similarity(p).sum()
        height, width = p.shape[-2:]
        number = self._sums().images.sum() * (height * width)
        return -sum_to_all(local / number.clamp_min(1), self.world, "the similarity loss")

    def _slots(self) -> Slots:
        if self.groups is None:
            return Slots(None, 1)
        labels = torch.unique(self.world.gather_rows(self.groups, "the groups of the images"))
        return Slots(torch.searchsorted(labels, self.groups), len(labels))

    def _sums(self) -> Sums:
        """S and the sizes of the groups over all processes."""
        flat = self._pending.wait()
        number = self._where.number
        vectors = flat[: len(flat) - number].view(number, *self.z.shape[1:])
        return Sums(vectors, flat[len(flat) - number :])


class _Similarity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, p: Tensor, z: Tensor, targets: Targets) -> Tensor:
        ctx.save_for_backward(p, z)
        ctx.targets = targets
        # Made once for both passes; a few times the batch is little beside what the heads keep.
        ctx.directions = directions(p)
        return similarity(ctx.directions, targets._directions, targets._sums(), targets._where)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        p, z = ctx.saved_tensors
        targets: Targets = ctx.targets
        units: tuple[Directions, Directions] = (ctx.directions, targets._directions)
        sums, where = targets._sums(), targets._where
        need_p, need_z = ctx.needs_input_grad[:2]
        to_p = to_z = scaled = pending = None
        if need_z:
            scaled = weighted(grad, units[0], sums, where)
            pending = targets.world.start_sum(
                sum_by_slot(scaled, where), "the gradient of the sum of targets"
            )
        if need_p:
            to_p = as_gradient(gradient_p(grad, *units, sums, where), p)
        if pending is not None and scaled is not None:
            to_z = as_gradient(gradient_z(scaled, units[1], pending.wait(), where), z)
        return to_p, to_z, None


class _SumToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, world: World, what: str) -> Tensor:
        ctx.size = world.size
        return world.sum_(value.detach().clone(), what)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad * ctx.size, None, None


def sum_to_all(value: Tensor, world: World, what: str) -> Tensor:
    """The sum of the processes' values, as a loss whose gradients are to be averaged over them.

    Each process then holds the number of processes times the gradient of the sum to what is its
    own, and their average is the gradient to what all of them share.
    """
    return value if world.size == 1 else _SumToAll.apply(value, world, what)


def dense_similarity(
    p: Tensor, z: Tensor, groups: Tensor | None = None, *, world: World | None = None
) -> Tensor:
    """:func:`fastalign.ops.dense_similarity` over the images of all processes.

    Its backward gives each process the gradient of the sum of all processes' results, weighted by
    the gradients that each of them puts in, to its own p and z.

    Args:
        p, z, groups: those of this process; see :class:`Targets`.
        world: the processes; None: those of the default group.

    Returns:
        ``[B,H,W]`` for the B images of this process, in float32, in float64 for float64.
    """
    return Targets(z, groups, world=world).similarity(p)


def dense_similarity_loss(
    p: Tensor, z: Tensor, groups: Tensor | None = None, *, world: World | None = None
) -> Tensor:
    """:func:`fastalign.ops.dense_similarity_loss` over the images of all processes: one value.

    Its gradients are to be averaged over the processes, by :func:`average_gradients` or by
    ``DistributedDataParallel``.

    Args:
        p, z, groups, world: as for :func:`dense_similarity`.
    """
    return Targets(z, groups, world=world).loss(p)
