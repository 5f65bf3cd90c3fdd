"""All-pairs distances at every location, in plain PyTorch.

The un-squared distance needs all pairs; they are walked image by image, so that nothing larger than
the batch itself is held. The squared distance needs sums only: with u = h - (mean of the group),

    sum over j of |h_a - h_j|^2  =  n |u_a|^2 - 2 u_a . sum_j u_j + sum_j |u_j|^2

where the mean is taken away first because the three terms would cancel otherwise.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastalign.ops.layout import accumulation_dtype, as_gradient, empty_maps, no_gradient
from fastalign.ops.reference.groups import Slots, for_each_image, partners, slots, sum_by_slot
from fastalign.ops.reference.vectors import dot, lengths, plain_lengths


class Batch(NamedTuple):
    """The images that take part."""

    values: Tensor  # [B,C,H,W] in the accumulation dtype, 0 where not valid
    valid: Tensor | None  # [B,H,W] bool
    groups: Tensor | None  # [B]
    where: Slots
    members: Tensor  # [B or 1, H or 1, W or 1] valid images in the group, at least 1
    share: Tensor  # [B or 1, H or 1, W or 1] one over the number of partners, 0 if there are none


def _batch(h: Tensor, mask: Tensor | None, groups: Tensor | None) -> Batch:
    values = h.to(accumulation_dtype(h.dtype))
    where = slots(groups)
    if mask is None:
        counts = sum_by_slot(values.new_ones((h.shape[0], 1, 1)), where)
    else:
        # Whatever lies under the mask, infinities included, must not reach a sum.
        values = values.masked_fill(~mask.unsqueeze(1), 0)
        counts = sum_by_slot(mask.to(values.dtype), where)
    members = for_each_image(counts, where)
    share = torch.where(members > 1, 1 / (members - 1).clamp_min(1), 0)
    if mask is not None:
        share = share * mask
    return Batch(values, mask, groups, where, members.clamp_min(1), share)


def _excluded(batch: Batch, image: int) -> Tensor | None:
    """True where ``image`` and a later one make no pair: ``[B - image - 1, H or 1, W or 1]``."""
    excluded = None
    if batch.groups is not None:
        excluded = (batch.groups[image + 1 :] != batch.groups[image])[:, None, None]
    if batch.valid is not None:
        invalid = ~(batch.valid[image + 1 :] & batch.valid[image])
        excluded = invalid if excluded is None else invalid | excluded
    return excluded


def _walk(batch: Batch, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Sums of distances ``[B,H,W]`` and, for weights ``[B,H,W]`` of these sums, the gradient."""
    values = batch.values
    count, _, height, width = values.shape
    sums = values.new_zeros((count, height, width))
    gradient = None if weight is None else torch.zeros_like(values)
    for image in range(count - 1):
        difference = values[image + 1 :] - values[image]
        excluded = _excluded(batch, image)
        if excluded is not None:
            # The difference and not the distance alone: an infinite one would reach the gradient.
            difference.masked_fill_(excluded.unsqueeze(1), 0)
        distance = lengths(difference)
        sums[image] += distance.sum(0)
        sums[image + 1 :] += distance
        if weight is not None and gradient is not None:
            # A pair counts once for each of its images; no direction where they are equal.
            pair = (weight[image + 1 :] + weight[image]) / distance
            pair.masked_fill_(distance == 0, 0)
            difference *= pair.unsqueeze(1)
            gradient[image] -= difference.sum(0)
            gradient[image + 1 :] += difference
    return sums, gradient


def _unsquared(batch: Batch, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
    scaled = None if weight is None else weight * batch.share
    sums, gradient = _walk(batch, scaled)
    return sums * batch.share, gradient


def _squared(batch: Batch, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
    where = batch.where

    def total(values: Tensor) -> Tensor:
        return for_each_image(sum_by_slot(values, where), where)

    members = batch.members.unsqueeze(1)
    centred = batch.values - total(batch.values) / members
    if batch.valid is not None:
        centred = centred.masked_fill(~batch.valid.unsqueeze(1), 0)
    squares, rest = dot(centred, centred), total(centred)
    sums = batch.members * squares - 2 * dot(centred, rest) + total(squares)
    value = (sums * batch.share).clamp_min(0)
    if weight is None:
        return value, None
    scaled = (weight * batch.share).unsqueeze(1)
    gradient = scaled * (members * centred - rest) + centred * total(scaled)
    gradient = 2 * (gradient - total(scaled * centred))
    if batch.valid is not None:
        gradient = gradient.masked_fill(~batch.valid.unsqueeze(1), 0)
    return value, gradient


def _solve(
    h: Tensor, mask: Tensor | None, groups: Tensor | None, squared: bool, weight: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    batch = _batch(h, mask, groups)
    return _squared(batch, weight) if squared else _unsquared(batch, weight)


def _gradient(value: Tensor | None, like: Tensor) -> Tensor:
    return no_gradient(like) if value is None else as_gradient(value, like)


def pairwise_distance(
    h: Tensor, mask: Tensor | None, groups: Tensor | None, squared: bool
) -> Tensor:
    """See ``fastalign.ops.pairwise_distance``."""
    if h.numel() == 0:
        batch, _, height, width = h.shape
        return h.new_zeros((batch, height, width), dtype=accumulation_dtype(h.dtype))
    return _solve(h, mask, groups, squared, None)[0]


def pairwise_distance_backward(
    grad: Tensor, h: Tensor, mask: Tensor | None, groups: Tensor | None, squared: bool
) -> Tensor:
    """Gradient of ``sum(grad * pairwise_distance)`` to h."""
    if h.numel() == 0:
        return empty_maps(h)
    return _gradient(_solve(h, mask, groups, squared, grad)[1], h)


def pairwise_distance_loss(
    h: Tensor, mask: Tensor | None, groups: Tensor | None, squared: bool, need_h: bool
) -> tuple[Tensor, Tensor]:
    """The mean of ``pairwise_distance`` and its gradient to h."""
    if h.numel() == 0:
        zero = h.new_zeros((), dtype=accumulation_dtype(h.dtype))
        return zero, empty_maps(h) if need_h else no_gradient(h)
    batch, _, height, width = h.shape
    weight = None
    if need_h:
        weight = h.new_full(
            (batch, height, width), 1 / (batch * height * width), dtype=accumulation_dtype(h.dtype)
        )
    value, gradient = _solve(h, mask, groups, squared, weight)
    return value.mean(), _gradient(gradient, h)


def pairwise_distance_plain(
    h: Tensor, mask: Tensor | None, groups: Tensor | None, squared: bool
) -> Tensor:
    """``pairwise_distance`` in ops that torch itself derives and exports; holds all pairs."""
    values = h.to(accumulation_dtype(h.dtype))
    pairs = partners(h, groups)[:, :, None, None]
    if mask is not None:
        # Whatever lies under the mask, NaN included, must reach neither a sum nor a gradient.
        values = values.masked_fill(~mask.unsqueeze(1), 0)
        pairs = pairs & mask & mask[:, None]
    difference = (values[:, None] - values).masked_fill(~pairs.unsqueeze(2), 0)
    distance = difference.square().sum(2) if squared else plain_lengths(difference, 2)
    return distance.sum(1) / pairs.sum(1).clamp_min(1)
