"""dense_similarity with whole vectors in registers: the variants ``whole`` and ``shared``.

A program holds the vectors of one image at its locations as a tile ``[C,X]``, and S as another.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastalign.kernels.common import image_stride, map_offsets
from fastalign.kernels.dense_long import inverse_length


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
def partial_sums_kernel(
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
    channels,
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
        # A number has no direction to turn: 0 but for what is not finite, exactly.
        gradient = tl.where(channels == 1, gradient * 0.0, gradient)
        tl.store(
            out_ptr + image * out_step + out_offsets,
            gradient.to(out_ptr.dtype.element_ty),
            mask=inside,
            eviction_policy="evict_first",
        )
    return total


@triton.jit
def similarity_kernel(
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
                channels,
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
