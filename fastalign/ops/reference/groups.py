"""Sums over the images of a group, without synchronising with a device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Slots(NamedTuple):
    """Where each image's group is summed: ``index`` ``[B]`` in ``0 .. count - 1``.

    ``index`` None: one group of all images.
    """

    index: Tensor | None
    count: int


def slots(groups: Tensor | None) -> Slots:
    """Slots for labels ``[B]``: the labels' ranks, or the first image of each label on a device
    where counting the labels would mean waiting for it."""
    if groups is None:
        return Slots(None, 1)
    if groups.device.type == "cpu":
        labels, index = torch.unique(groups, return_inverse=True)
        return Slots(index, labels.numel())
    same = groups[:, None] == groups[None, :]
    return Slots(same.to(torch.uint8).argmax(1), groups.numel())


def sum_by_slot(values: Tensor, where: Slots) -> Tensor:
    """Sums ``[count, ...]`` over the images ``[B, ...]`` of each slot."""
    if where.index is None:
        return values.sum(0, keepdim=True)
    sums = values.new_zeros((where.count, *values.shape[1:]))
    return sums.index_add_(0, where.index, values)


def for_each_image(sums: Tensor, where: Slots) -> Tensor:
    """The slot's sum for each image: ``[count, ...]`` to ``[B, ...]``, or to ``[1, ...]``."""
    return sums if where.index is None else sums[where.index]
