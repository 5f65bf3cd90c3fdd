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
import triton
import triton.language as tl
from fastalign.kernels.common import (
    ALONG_CHANNELS,
    addressing,
    float64_limit,
    group_order,
    image_stride,
    map_offsets,
    on_device_of,
    processors,
    sum_parts,
)
from fastalign.kernels.dense_long import inverse_length, looped_kernel
from fastalign.kernels.dense_plan import plan
from torch import Tensor

from fastalign.ops.layout import (
    empty_locations,
    empty_maps,
    empty_scalar,
    no_gradient,
)

# What becomes of the values, and which side of a pair the weights belong to.
NO_VALUE, VALUE_MAP, VALUE_SUM = 0, 1, 2
CONSTANT, BY_IMAGE, BY_PARTNER = 0, 1, 2


@triton.jit
def _unit(ptr, offsets, inside, POLICY: tl.constexpr):
    """Vectors ``[C,X]`` in float32 and one over their lengths ``[X]``."""
    vectors = tl.load(ptr + offsets, mask=inside, other=0.0, eviction_policy=POLICY)
    vectors = vectors.to(tl.float32)
    return vectors, inverse_length(tl.sum(vectors * vectors, 0))


@triton.jit
def _sum_of_units(
    v_ptr,
    weight_ptr,
    order_ptr,
    first,
    last,
    v_step,
    weight_step,
    offsets,
    weight_offsets,
    inside,
    exists,
    GROUPED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Sum over places first .. last - 1 of the weighted unit vectors ``[C,X]``."""
    sums = tl.zeros(inside.shape, tl.float32)
    for place in tl.range(first, last, num_stages=STAGES):
        if GROUPED:
            image = tl.load(order_ptr + place)
        else:
            image = place
        v, factor = _unit(v_ptr + image * v_step, offsets, inside, "")
        if WEIGHTED == 2:
            weight = tl.load(
                weight_ptr + image * weight_step + weight_offsets, mask=exists, other=0.0
            )
            factor *= weight
        sums += v * factor[None, :]
    return sums


@triton.jit
def _partial_sums_kernel(
    v_ptr,  # [B,C,H,W]
    weight_ptr,  # [B,H,W]
    parts_ptr,  # float32 [chunks,C,H*W]
    images,
    channels,
    locations,
    width,
    chunk,
    chunks,
    v_image,
    v_channel,
    v_row,
    v_column,
    weight_image,
    weight_row,
    weight_column,
    V_ORDER: tl.constexpr,
    VECTOR: tl.constexpr,
    CHANNEL_VECTOR: tl.constexpr,
    ROW_VECTOR: tl.constexpr,
    WIDE: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_X: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Sums of the (weighted) unit vectors of each chunk of images."""
    part = tl.program_id(0) % chunks
    x = (tl.program_id(0) // chunks) * BLOCK_X + tl.arange(0, BLOCK_X)
    c = tl.arange(0, BLOCK_C)
    if WIDE:
        x = x.to(tl.int64)
        c = c.to(tl.int64)
    channels = channels * CHANNEL_VECTOR
    locations = locations * ROW_VECTOR
    exists = x < locations
    inside = (c < channels)[:, None] & exists[None, :]
    offsets = map_offsets(
        c[:, None], x[None, :], v_channel, v_row, v_column, width, V_ORDER, VECTOR
    )
    first = part * chunk
    sums = _sum_of_units(
        v_ptr,
        weight_ptr,
        weight_ptr,
        first,
        min(first + chunk, images),
        image_stride(v_image, V_ORDER, VECTOR),
        tl.cast(weight_image, tl.int64),
        offsets,
        (x // width) * weight_row + (x % width) * weight_column,
        inside,
        exists,
        False,
        WEIGHTED,
        STAGES,
    )
    if V_ORDER == 2:
        offsets = c[:, None] + x[None, :] * channels
    else:
        offsets = c[:, None] * locations + x[None, :]
    size = tl.cast(channels, tl.int64) * locations
    tl.store(parts_ptr + part * size + offsets, sums, mask=inside)


@triton.jit
def _finish(
    image,
    sums,
    partners,
    total,
    u_ptr,
    v_ptr,
    weight_ptr,
    out_ptr,
    value_ptr,
    u_step,
    v_step,
    out_step,
    weight_step,
    u_offsets,
    v_offsets,
    out_offsets,
    weight_offsets,
    x,
    locations,
    inside,
    exists,
    constant,
    VALUE: tl.constexpr,
    GRADIENT: tl.constexpr,
    WEIGHTED: tl.constexpr,
):
    """Value and gradient of one image, given S; returns ``total`` with the values added."""
    u, u_factor = _unit(u_ptr + image * u_step, u_offsets, inside, "evict_first")
    v, v_factor = _unit(v_ptr + image * v_step, v_offsets, inside, "evict_first")
    share = tl.where(partners > 0, 1.0 / tl.maximum(partners, 1).to(tl.float32), 0.0)
    factor = u_factor * share
    if WEIGHTED == 0:
        factor *= constant
    else:
        weight = tl.load(weight_ptr + image * weight_step + weight_offsets, mask=exists, other=0.0)
        if WEIGHTED == 1:
            factor *= weight
        else:
            v_factor *= weight
    others = sums - v * v_factor[None, :]
    along = tl.sum(others * u, 0) * u_factor
    if VALUE == 1:
        places = image * tl.cast(locations, tl.int64) + x
        tl.store(value_ptr + places, along * share, mask=exists)
    if VALUE == 2:
        total += along * share
    if GRADIENT:
        gradient = (others - u * (along * u_factor)[None, :]) * factor[None, :]
        # Where u is zero the gradient is, whatever NaN the others hold.
        gradient = tl.where((u_factor == 0)[None, :] & (u == 0), 0.0, gradient)
        tl.store(
            out_ptr + image * out_step + out_offsets,
            gradient.to(out_ptr.dtype.element_ty),
            mask=inside,
            eviction_policy="evict_first",
        )
    return total


@triton.jit
def _similarity_kernel(
    u_ptr,  # [B,C,H,W]
    v_ptr,  # [B,C,H,W]
    weight_ptr,  # float32 [B,H,W], unless constant
    out_ptr,  # [B,C,H,W], the gradient to u
    value_ptr,  # float32 [B,H,W], or one sum for each program
    order_ptr,  # int32 [3,B], see group_order
    parts_ptr,  # float32 [chunks,C,H*W], partial sums of S
    images,
    channels,
    locations,
    width,
    chunk,
    chunks,
    constant,
    u_image,
    u_channel,
    u_row,
    u_column,
    v_image,
    v_channel,
    v_row,
    v_column,
    out_image,
    out_channel,
    out_row,
    weight_image,
    weight_row,
    weight_column,
    U_ORDER: tl.constexpr,
    V_ORDER: tl.constexpr,
    OUT_ORDER: tl.constexpr,
    VECTOR: tl.constexpr,
    CHANNEL_VECTOR: tl.constexpr,
    ROW_VECTOR: tl.constexpr,
    WIDE: tl.constexpr,
    GROUPED: tl.constexpr,
    SUMMED: tl.constexpr,
    VALUE: tl.constexpr,
    GRADIENT: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_X: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Values and gradients of a chunk of images at a block of locations."""
    program = tl.program_id(0)
    part = program % chunks
    x = (program // chunks) * BLOCK_X + tl.arange(0, BLOCK_X)
    c = tl.arange(0, BLOCK_C)
    if WIDE:
        x = x.to(tl.int64)
        c = c.to(tl.int64)
    channels = channels * CHANNEL_VECTOR
    locations = locations * ROW_VECTOR
    constant = tl.cast(constant, tl.float32)
    exists = x < locations
    inside = (c < channels)[:, None] & exists[None, :]
    row, column = c[:, None], x[None, :]
    u_offsets = map_offsets(row, column, u_channel, u_row, u_column, width, U_ORDER, VECTOR)
    v_offsets = map_offsets(row, column, v_channel, v_row, v_column, width, V_ORDER, VECTOR)
    out_offsets = map_offsets(row, column, out_channel, out_row, 0, width, OUT_ORDER, VECTOR)
    weight_offsets = (x // width) * weight_row + (x % width) * weight_column
    u_step = image_stride(u_image, U_ORDER, VECTOR)
    v_step = image_stride(v_image, V_ORDER, VECTOR)
    out_step = image_stride(out_image, OUT_ORDER, VECTOR)
    weight_step = tl.cast(weight_image, tl.int64)
    total = tl.zeros((BLOCK_X,), tl.float32)
    place = part * chunk
    last = min(place + chunk, images)
    while place < last:
        if GROUPED:
            begin = tl.load(order_ptr + images + place)
            end = tl.load(order_ptr + 2 * images + place)
        else:
            begin = 0
            end = images
        if SUMMED:
            if V_ORDER == 2:
                offsets = row + column * channels
            else:
                offsets = row * locations + column
            size = tl.cast(channels, tl.int64) * locations
            sums = tl.zeros((BLOCK_C, BLOCK_X), tl.float32)
            for other in range(0, chunks):
                sums += tl.load(parts_ptr + other * size + offsets, mask=inside, other=0.0)
        else:
            sums = _sum_of_units(
                v_ptr,
                weight_ptr,
                order_ptr,
                begin,
                end,
                v_step,
                weight_step,
                v_offsets,
                weight_offsets,
                inside,
                exists,
                GROUPED,
                WEIGHTED,
                STAGES,
            )
        stop = min(end, last)
        for step in tl.range(place, stop, num_stages=STAGES):
            # Backwards: what was read last is the likeliest to be in the cache still.
            current = place + stop - 1 - step
            if GROUPED:
                image = tl.load(order_ptr + current)
            else:
                image = current
            total = _finish(
                image,
                sums,
                end - begin - 1,
                total,
                u_ptr,
                v_ptr,
                weight_ptr,
                out_ptr,
                value_ptr,
                u_step,
                v_step,
                out_step,
                weight_step,
                u_offsets,
                v_offsets,
                out_offsets,
                weight_offsets,
                x,
                locations,
                inside,
                exists,
                constant,
                VALUE,
                GRADIENT,
                WEIGHTED,
            )
        place = stop
    if VALUE == 2:
        tl.store(value_ptr + program, tl.sum(total, 0))


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
    sizes = plan(
        images,
        channels,
        height * width,
        u.element_size(),
        maps.maps[1].order == ALONG_CHANNELS,
        processors(u),
    )
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
    strides = (*maps.maps[0][1:], *maps.maps[1][1:], *maps.maps[2][1:4], *weight_strides)
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
            _partial_sums_kernel[grid](
                v,
                tensors[2],
                parts,
                *counts,
                *dealt,
                *maps.maps[1][1:],
                *weight_strides,
                V_ORDER=options["V_ORDER"],
                STAGES=sizes.stages,
                **shared,
            )
        _similarity_kernel[grid](
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
