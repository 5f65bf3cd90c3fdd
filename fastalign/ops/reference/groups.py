"""Sums over the images of a group, without synchronising with a device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Slots(NamedTuple):
    """Where each image's group is summed: ``of_image`` ``[B]`` in ``0 .. number - 1``.

    ``of_image`` None: one group of all images.
    """

    of_image: Tensor | None
    number: int


def slots(groups: Tensor | None) -> Slots:
    """Slots for labels ``[B]``: the labels' ranks, or the first image of each label on a device
    where counting the labels would mean waiting for it."""
    if groups is None:
        return Slots(None, 1)
    if groups.device.type == "cpu":
        labels, index = torch.unique(groups, return_inverse=True)
        return Slots(index, labels.numel())
    return slots_by_first_image(groups)


def slots_by_first_image(groups: Tensor) -> Slots:
    """The first image of a label stands for it; the other slots stay empty."""
    same = groups[:, None] == groups[None, :]
    return Slots(same.to(torch.uint8).argmax(1), groups.numel())


def sum_by_slot(values: Tensor, where: Slots) -> Tensor:
    """Sums ``[number, ...]`` over the images ``[B, ...]`` of each slot."""
    if where.of_image is None:
        return values.sum(0, keepdim=True)
    sums = values.new_zeros((where.number, *values.shape[1:]))
    return sums.index_add_(0, where.of_image, values)


def for_each_image(sums: Tensor, where: Slots) -> Tensor:
    """The slot's sum for each image: ``[number, ...]`` to ``[B, ...]``, or to ``[1, ...]``."""
    return sums if where.of_image is None else sums[where.of_image]


def partners(images: Tensor, groups: Tensor | None) -> Tensor:
    """Which of the images ``[B,...]`` make a pair: bool ``[B,B]``, False on the diagonal."""
    number = torch.arange(images.shape[0], device=images.device)
    others = number[:, None] != number
    return others if groups is None else others & (groups[:, None] == groups)
