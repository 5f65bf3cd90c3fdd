"""All-pairs dense cosine similarity in O(B): Triton kernels.

One kernel serves values and both gradients. With unit vectors u^, v^ and S = sum of w_b v^_b over
the images b of a group, image a needs

    o = S - w_a v^_a,      value = o . u^_a * share,      gradient = f (o - (o . u^_a) u^_a) / |u_a|

with (u, v) = (p, z), w = 1, f = weight_a * share for p, and (u, v) = (z, p), w = weight,
f = share for z. share is one over the number of partners.

A program owns some locations. It holds the vectors of one image at these locations, and S, in
registers: first it walks over the images to sum S, then again to finish one image after the other.

``whole``   a vector fits in registers. One program walks over all images: v is read twice, u once,
            the gradient is written once: 4 N elements, of which the second read of v can come from
            L2.
``shared``  the same with few locations: images are dealt out to several programs. Without groups a
            first kernel leaves partial sums of S (float32), with groups each program sums all of
            its group's images; what is read again is small and comes from L2.
``looped``  vectors too long for registers go block by block: v is read four times, u twice, S
            (float32) written once and read twice for each image; all but the first reads mostly
            from L2.

Squares of float32 vectors must exist: lengths from 1e-18 to 1e18. No atomics: the same call gives
the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastalign.kernels.common import (
    addressing,
    float64_limit,
    group_order,
    on_device_of,
    sum_parts,
    workload,
)
from fastalign.kernels.dense_long import looped_kernel
from fastalign.kernels.dense_plan import plan
from fastalign.kernels.dense_sums import partial_sums_kernel
from fastalign.kernels.dense_whole import similarity_kernel
from fastalign.ops.layout import (
    empty_locations,
    empty_maps,
    empty_scalar,
    no_gradient,
)

# What becomes of the values, and which side of a pair the weights belong to.
NO_VALUE, VALUE_MAP, VALUE_SUM = 0, 1, 2
CONSTANT, BY_IMAGE, BY_PARTNER = 0, 1, 2


def _launch(
    u: Tensor,
    v: Tensor,
    groups: Tensor | None,
    *,
    weight: Tensor | None = None,
    weighted: int = CONSTANT,
    constant: float = 1.0,
    out: Tensor | None = None,
    values: Tensor | None = None,
    value: int = NO_VALUE,
) -> Tensor | None:
    """Run the kernels for one pair of roles; the values, for ``VALUE_SUM`` sums to be added."""
    images, channels, height, width = u.shape
    maps = addressing(u, v, u if out is None else out)
    sizes = plan(workload(u, maps.maps[1]))
    weight_strides = (0, 0, 0) if weight is None else weight.stride()
    shared = {
        "VECTOR": maps.vector,
        "CHANNEL_VECTOR": maps.channel_vector,
        "ROW_VECTOR": maps.row_vector,
        "WIDE": maps.wide,
        "WEIGHTED": weighted,
        "BLOCK_C": sizes.block_c,
        "BLOCK_X": sizes.block_x,
        "num_warps": sizes.warps,
    }
    options = {
        "U_ORDER": maps.maps[0].order,
        "V_ORDER": maps.maps[1].order,
        "OUT_ORDER": maps.maps[2].order,
        "GROUPED": groups is not None,
        "VALUE": value,
        "GRADIENT": out is not None,
    }
    strides = (*(described.strides for described in maps.maps), weight_strides)
    counts = (images, maps.channels, maps.locations, width)

    def scratch(*shape: int) -> Tensor:
        return u.new_empty(shape, dtype=torch.float32)

    with on_device_of(u):
        order = u if groups is None else group_order(groups)
        if value == VALUE_SUM:
            values = scratch(sizes.programs)
        # Where a kernel takes a tensor that this launch does not have, another stands in, unread.
        tensors = (
            u,
            v,
            u if weight is None else weight,
            u if out is None else out,
            u if values is None else values,
            order,
        )
        grid = (sizes.programs,)
        if not sizes.whole:
            sums, factors = scratch(channels, height * width), scratch(images, height * width)
            looped_kernel[grid](
                *tensors, sums, factors, *counts, constant, *strides, **options, **shared
            )
            return values
        summed = groups is None and sizes.chunks > 1
        parts = u
        dealt = (sizes.chunk, sizes.chunks)
        if summed:
            parts = scratch(sizes.chunks, channels, height * width)
            partial_sums_kernel[grid](
                v,
                tensors[2],
                parts,
                *counts,
                *dealt,
                maps.maps[1].strides,
                weight_strides,
                V_ORDER=options["V_ORDER"],
                STAGES=sizes.stages,
                **shared,
            )
        similarity_kernel[grid](
            *tensors,
            parts,
            *counts,
            *dealt,
            constant,
            *strides,
            SUMMED=summed,
            STAGES=sizes.stages,
            **options,
            **shared,
        )
    return values


def can_run(op: str, *tensors: Tensor) -> str | None:
    """Why these kernels cannot serve ``op``, or None."""
    return float64_limit(*tensors)


def dense_similarity(p: Tensor, z: Tensor, groups: Tensor | None) -> Tensor:
    """See ``fastalign.ops.dense_similarity``."""
    values = empty_locations(p)
    if p.numel() == 0:
        return values.zero_()
    _launch(p, z, groups, values=values, value=VALUE_MAP)
    return values


def _gradients(p: Tensor, z: Tensor, need_p: bool, need_z: bool) -> tuple[Tensor, Tensor]:
    return (
        empty_maps(p) if need_p else no_gradient(p),
        empty_maps(z) if need_z else no_gradient(z),
    )


def dense_similarity_backward(
    grad: Tensor, p: Tensor, z: Tensor, groups: Tensor | None, need_p: bool, need_z: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of ``sum(grad * dense_similarity)`` to p and z."""
    to_p, to_z = _gradients(p, z, need_p, need_z)
    if p.numel() > 0:
        if need_p:
            _launch(p, z, groups, weight=grad, weighted=BY_IMAGE, out=to_p)
        if need_z:
            _launch(z, p, groups, weight=grad, weighted=BY_PARTNER, out=to_z)
    return to_p, to_z


def dense_similarity_loss(
    p: Tensor, z: Tensor, groups: Tensor | None, need_p: bool, need_z: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Minus the mean of ``dense_similarity``, and its gradients to p and z."""
    loss = empty_scalar(p)
    to_p, to_z = _gradients(p, z, need_p, need_z)
    if p.numel() == 0:
        return loss.zero_(), to_p, to_z
    images, _, height, width = p.shape
    constant = -1 / (images * height * width)
    sums = _launch(p, z, groups, constant=constant, out=to_p if need_p else None, value=VALUE_SUM)
    if need_z:
        _launch(z, p, groups, constant=constant, out=to_z)
    with on_device_of(p):
        sum_parts(sums, constant, loss)
    return loss, to_p, to_z
