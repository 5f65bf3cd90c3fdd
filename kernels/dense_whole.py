"""dense_similarity with whole vectors in registers: the variants ``whole`` and ``shared``.

A program holds the vectors of one image at its locations as a tile ``[C,X]``, and S as another: so
a vector's length, its product with S and its gradient come of one read. It walks over the images to
sum S, then back over them: what was read last is the likeliest to be in the cache still.

Bytes: u once, v twice (the second time from the second cache where a block of locations of all
images fits), the gradient once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastalign.kernels.common import load_at, place_locations, place_map, pointers_at
from fastalign.kernels.dense_parts import gradient_of, image_at, share_among
from fastalign.kernels.dense_sums import own_tile, sum_of_units, sums_offsets, unit_at


@triton.jit
def _finish(
    image, channels, sums, partners, total, u_place, v_place, out_place, weights, value_ptr,
    x, locations, inside, exists, constant,
    VALUE: tl.constexpr, GRADIENT: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """Value and gradient of one image, given S; returns ``total`` with the values added."""
    u, u_factor = unit_at(u_place, image, inside, "evict_first")
    v, v_factor = unit_at(v_place, image, inside, "evict_first")
    share = share_among(partners)
    factor = u_factor * share
    if WEIGHTED == 0:
        factor *= constant
    else:
        weight = load_at(weights, image, exists)
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
        gradient = gradient_of(u, others, along, u_factor, factor)
        # A number has no direction to turn: 0 but for what is not finite, exactly.
        gradient = tl.where(channels == 1, gradient * 0.0, gradient)
        pointers = pointers_at(out_place, image)
        gradient = gradient.to(pointers.dtype.element_ty)
        tl.store(pointers, gradient, mask=inside, eviction_policy="evict_first")
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
    images, channels, locations, width, chunk, chunks, constant,
    u_strides, v_strides, out_strides, weight_strides,
    U_ORDER: tl.constexpr, V_ORDER: tl.constexpr, OUT_ORDER: tl.constexpr,
    VECTOR: tl.constexpr, CHANNEL_VECTOR: tl.constexpr, ROW_VECTOR: tl.constexpr,
    WIDE: tl.constexpr, GROUPED: tl.constexpr, SUMMED: tl.constexpr,
    VALUE: tl.constexpr, GRADIENT: tl.constexpr, WEIGHTED: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_X: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Values and gradients of a chunk of images at a block of locations."""
    program = tl.program_id(0)
    part = program % chunks
    channels = channels * CHANNEL_VECTOR
    locations = locations * ROW_VECTOR
    constant = tl.cast(constant, tl.float32)
    c, x, exists, inside = own_tile(program // chunks, locations, channels, BLOCK_C, BLOCK_X, WIDE)
    row, column = c[:, None], x[None, :]
    u_place = place_map(u_ptr, u_strides, row, column, width, U_ORDER, VECTOR)
    v_place = place_map(v_ptr, v_strides, row, column, width, V_ORDER, VECTOR)
    out_place = place_map(out_ptr, out_strides, row, column, width, OUT_ORDER, VECTOR)
    weights = place_locations(weight_ptr, weight_strides, x, width)
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
            offsets = sums_offsets(c, x, channels, locations, V_ORDER)
            size = tl.cast(channels, tl.int64) * locations
            sums = tl.zeros((BLOCK_C, BLOCK_X), tl.float32)
            for other in range(0, chunks):
                sums += tl.load(parts_ptr + other * size + offsets, mask=inside, other=0.0)
        else:
            sums = sum_of_units(
                v_place, weights, order_ptr, begin, end, inside, exists, GROUPED, WEIGHTED, STAGES
            )
        stop = min(end, last)
        for step in tl.range(place, stop, num_stages=STAGES):
            image = image_at(order_ptr, place + stop - 1 - step, GROUPED)
            total = _finish(
                image, channels, sums, end - begin - 1, total,
                u_place, v_place, out_place, weights, value_ptr,
                x, locations, inside, exists, constant, VALUE, GRADIENT, WEIGHTED,
            )  # fmt: skip
        place = stop
    if VALUE == 2:
        tl.store(value_ptr + program, tl.sum(total, 0))
