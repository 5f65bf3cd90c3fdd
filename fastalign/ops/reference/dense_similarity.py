"""All-pairs dense cosine similarity in O(B), in plain PyTorch.

With unit vectors p^, z^ and S = sum of z^ over the images of a group, for each location

    sum over b != a of p^_a . z^_b  =  p^_a . (S - z^_a)

so that S and the size of the group are all that an image needs to know of the others. The work is
split there: ``accumulate`` gives S and the sizes, which may be summed over processes that hold
other images of the same groups, and ``similarity`` and ``gradients`` use them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastalign.ops.layout import accumulation_dtype, as_gradient, empty_maps, no_gradient
from fastalign.ops.reference.groups import Slots, for_each_image, partners, slots, sum_by_slot
from fastalign.ops.reference.vectors import Directions, directions, dot, plain_directions


class Sums(NamedTuple):
    """What the images of a group share."""

    vectors: Tensor  # [G,C,H,W] sum of unit vectors
    images: Tensor  # [G] number of images


def accumulate(unit: Tensor, where: Slots) -> Sums:
    """Sum of the unit vectors ``[B,C,H,W]`` and number of images of each slot."""
    images = sum_by_slot(unit.new_ones(unit.shape[0]), where)
    return Sums(sum_by_slot(unit, where), images)


def _share(sums: Sums, where: Slots) -> Tensor:
    """One over the number of partners of each image, 0 for an image alone: ``[B or 1,1,1]``."""
    partners = for_each_image(sums.images, where) - 1
    share = torch.where(partners > 0, 1 / partners.clamp_min(1), 0)
    return share[:, None, None]


def _others(unit: Tensor, sums: Tensor, where: Slots) -> Tensor:
    """Sum over the other images of the group: ``[B,C,H,W]``."""
    return for_each_image(sums, where) - unit


def similarity(p: Directions, z: Directions, sums: Sums, where: Slots) -> Tensor:
    """Mean cosine of each image with the others of its group: ``[B,H,W]``."""
    return dot(p.unit, _others(z.unit, sums.vectors, where)) * _share(sums, where)


def _tangent(direction: Tensor, of: Directions) -> Tensor:
    """Gradient through the normalisation: ``(g - (g . u) u) / |v|``, zero for a zero vector."""
    along = dot(direction, of.unit).unsqueeze(1)
    return ((direction - along * of.unit) / of.norm / of.peak).masked_fill_(of.zero, 0)


def gradient_p(weight: Tensor, p: Directions, z: Directions, sums: Sums, where: Slots) -> Tensor:
    """Gradient to p of ``sum(weight * similarity)``, weight ``[B,H,W]``."""
    scale = (weight * _share(sums, where)).unsqueeze(1)
    return _tangent(scale * _others(z.unit, sums.vectors, where), p)


def weighted(weight: Tensor, p: Directions, sums: Sums, where: Slots) -> Tensor:
    """What the gradient to z sums over the images of a group: p^, weighted, ``[B,C,H,W]``."""
    return (weight * _share(sums, where)).unsqueeze(1) * p.unit


def gradient_z(scaled: Tensor, z: Directions, total: Tensor, where: Slots) -> Tensor:
    """Gradient to z of the same, from :func:`weighted` and its sum by slot, which takes the place
    of S and like it may be summed over processes."""
    return _tangent(_others(scaled, total, where), z)


def _gradients(
    weight: Tensor,
    p: Tensor,
    z: Tensor,
    need: tuple[bool, bool],
    units: tuple[Directions, Directions],
    sums: Sums,
    where: Slots,
) -> tuple[Tensor, Tensor]:
    to_p, to_z = no_gradient(p), no_gradient(z)
    if need[0]:
        to_p = as_gradient(gradient_p(weight, *units, sums, where), p)
    if need[1]:
        scaled = weighted(weight, units[0], sums, where)
        total = sum_by_slot(scaled, where)
        to_z = as_gradient(gradient_z(scaled, units[1], total, where), z)
    return to_p, to_z


def _nothing(p: Tensor, z: Tensor, need: tuple[bool, bool]) -> tuple[Tensor, Tensor]:
    return (
        empty_maps(p) if need[0] else no_gradient(p),
        empty_maps(z) if need[1] else no_gradient(z),
    )


def dense_similarity(p: Tensor, z: Tensor, groups: Tensor | None) -> Tensor:
    """See ``fastalign.ops.dense_similarity``."""
    if p.numel() == 0:
        batch, _, height, width = p.shape
        return p.new_zeros((batch, height, width), dtype=accumulation_dtype(p.dtype))
    where = slots(groups)
    units = directions(p), directions(z)
    return similarity(*units, accumulate(units[1].unit, where), where)


def dense_similarity_backward(
    grad: Tensor, p: Tensor, z: Tensor, groups: Tensor | None, need_p: bool, need_z: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of ``sum(grad * dense_similarity)`` to p and z."""
    need = need_p, need_z
    if p.numel() == 0:
        return _nothing(p, z, need)
    where = slots(groups)
    units = directions(p), directions(z)
    return _gradients(grad, p, z, need, units, accumulate(units[1].unit, where), where)


def dense_similarity_loss(
    p: Tensor, z: Tensor, groups: Tensor | None, need_p: bool, need_z: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Minus the mean of ``dense_similarity``, and its gradients to p and z."""
    need = need_p, need_z
    if p.numel() == 0:
        return p.new_zeros((), dtype=accumulation_dtype(p.dtype)), *_nothing(p, z, need)
    where = slots(groups)
    units = directions(p), directions(z)
    sums = accumulate(units[1].unit, where)
    value = similarity(*units, sums, where)
    weight = torch.full_like(value, -1 / value.numel())
    return -value.mean(), *_gradients(weight, p, z, need, units, sums, where)


def dense_similarity_plain(p: Tensor, z: Tensor, groups: Tensor | None) -> Tensor:
    """``dense_similarity`` in ops that torch itself differentiates and exports."""
    unit_p, unit_z = plain_directions(p), plain_directions(z)
    pairs = partners(p, groups).to(unit_z.dtype)
    others = (pairs @ unit_z.flatten(1)).reshape(unit_z.shape)
    count = pairs.sum(1)[:, None, None]
    return (unit_p * others).sum(1) / count.clamp_min(1)
