"""dense_similarity of vectors too long for registers: the variant ``looped``.

The same sums as in ``dense_whole``, block by block of channels. A program owns its locations
alone, so what it writes to memory and reads back (S and the lengths) is its own, and a barrier
within the program is all the order it needs. The lengths are kept: a block of S needs those of all
images.

Bytes: v four times (lengths, S, values, gradients), u twice, S written once and read twice for each
image, the gradient written once; all but the first reads of u and v mostly from the second cache.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastalign.kernels.common import load_at, place_locations, place_map, pointers_at
from fastalign.kernels.dense_parts import gradient_of, image_at, inverse_length, share_among


@triton.jit
def _block(ptr, strides, first, x, exists, channels, width,
           ORDER: tl.constexpr, VECTOR: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """A map placed at a block of channels ``[C,X]``, and which of them exist."""
    c = first + tl.arange(0, BLOCK_C)
    place = place_map(ptr, strides, c[:, None], x[None, :], width, ORDER, VECTOR)
    return place, (c < channels)[:, None] & exists[None, :]


@triton.jit
def _load_block(ptr, strides, image, first, x, exists, channels, width,
                ORDER: tl.constexpr, VECTOR: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """A block of an image's channels in float32 ``[C,X]``."""
    place, inside = _block(ptr, strides, first, x, exists, channels, width, ORDER, VECTOR, BLOCK_C)
    return load_at(place, image, inside).to(tl.float32)


@triton.jit
def _load_others(v_ptr, v_strides, sums_ptr, sums_strides, image, factor, first, x, exists,
                 channels, width,
                 ORDER: tl.constexpr, VECTOR: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """S without the image's own part, for a block of channels ``[C,X]``."""
    v = _load_block(
        v_ptr, v_strides, image, first, x, exists, channels, width, ORDER, VECTOR, BLOCK_C
    )
    sums = _load_block(sums_ptr, sums_strides, 0, first, x, exists, channels, 1, 0, 1, BLOCK_C)
    return sums - v * factor[None, :]


@triton.jit
def looped_kernel(
    u_ptr,  # [B,C,H,W]
    v_ptr,  # [B,C,H,W]
    weight_ptr,  # float32 [B,H,W], unless constant
    out_ptr,  # [B,C,H,W], the gradient to u
    value_ptr,  # float32 [B,H,W], or one sum for each program
    order_ptr,  # int32 [3,B], see group_order
    sums_ptr,  # float32 [C,H*W], scratch
    factors_ptr,  # float32 [B,H*W], scratch
    images, channels, locations, width, constant,
    u_strides, v_strides, out_strides, weight_strides,
    U_ORDER: tl.constexpr, V_ORDER: tl.constexpr, OUT_ORDER: tl.constexpr,
    VECTOR: tl.constexpr, CHANNEL_VECTOR: tl.constexpr, ROW_VECTOR: tl.constexpr,
    WIDE: tl.constexpr, GROUPED: tl.constexpr,
    VALUE: tl.constexpr, GRADIENT: tl.constexpr, WEIGHTED: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_X: tl.constexpr,
):  # fmt: skip
    """Values and gradients of all images at a block of locations."""
    program = tl.program_id(0)
    x = program * BLOCK_X + tl.arange(0, BLOCK_X)
    if WIDE:
        x = x.to(tl.int64)
    channels = channels * CHANNEL_VECTOR
    locations = locations * ROW_VECTOR
    constant = tl.cast(constant, tl.float32)
    exists = x < locations
    weights = place_locations(weight_ptr, weight_strides, x, width)
    size = tl.cast(locations, tl.int64)
    # S lies in memory as v does.
    if V_ORDER == 2:
        sums_strides = (0, 1, channels, 0)
    else:
        sums_strides = (0, size, 1, 0)
    total = tl.zeros((BLOCK_X,), tl.float32)
    place = 0
    while place < images:
        end = images
        if GROUPED:
            end = tl.load(order_ptr + 2 * images + place)
        for current in range(place, end):
            image = image_at(order_ptr, current, GROUPED)
            squares = tl.zeros((BLOCK_X,), tl.float32)
            for first in range(0, channels, BLOCK_C):
                v = _load_block(v_ptr, v_strides, image, first, x, exists, channels, width,
                                V_ORDER, VECTOR, BLOCK_C)  # fmt: skip
                squares += tl.sum(v * v, 0)
            factor = inverse_length(squares)
            if WEIGHTED == 2:
                factor *= load_at(weights, image, exists)
            tl.store(factors_ptr + image * size + x, factor, mask=exists)
        tl.debug_barrier()
        for first in range(0, channels, BLOCK_C):
            sums = tl.zeros((BLOCK_C, BLOCK_X), tl.float32)
            for current in range(place, end):
                image = image_at(order_ptr, current, GROUPED)
                factor = tl.load(factors_ptr + image * size + x, mask=exists, other=0.0)
                v = _load_block(v_ptr, v_strides, image, first, x, exists, channels, width,
                                V_ORDER, VECTOR, BLOCK_C)  # fmt: skip
                sums += v * factor[None, :]
            block, inside = _block(sums_ptr, sums_strides, first, x, exists, channels, 1, 0, 1,
                                   BLOCK_C)  # fmt: skip
            tl.store(pointers_at(block, 0), sums, mask=inside)
        tl.debug_barrier()
        share = share_among(end - place - 1)
        for current in range(place, end):
            image = image_at(order_ptr, current, GROUPED)
            v_factor = tl.load(factors_ptr + image * size + x, mask=exists, other=0.0)
            squares = tl.zeros((BLOCK_X,), tl.float32)
            along = tl.zeros((BLOCK_X,), tl.float32)
            for first in range(0, channels, BLOCK_C):
                u = _load_block(u_ptr, u_strides, image, first, x, exists, channels, width,
                                U_ORDER, VECTOR, BLOCK_C)  # fmt: skip
                others = _load_others(v_ptr, v_strides, sums_ptr, sums_strides, image, v_factor,
                                      first, x, exists, channels, width, V_ORDER, VECTOR,
                                      BLOCK_C)  # fmt: skip
                squares += tl.sum(u * u, 0)
                along += tl.sum(u * others, 0)
            u_factor = inverse_length(squares)
            along *= u_factor
            if VALUE == 1:
                tl.store(value_ptr + image * size + x, along * share, mask=exists)
            if VALUE == 2:
                total += along * share
            if GRADIENT:
                factor = u_factor * share
                if WEIGHTED == 1:
                    factor *= load_at(weights, image, exists)
                if WEIGHTED == 0:
                    factor *= constant
                for first in range(0, channels, BLOCK_C):
                    u = _load_block(u_ptr, u_strides, image, first, x, exists, channels, width,
                                    U_ORDER, VECTOR, BLOCK_C)  # fmt: skip
                    others = _load_others(v_ptr, v_strides, sums_ptr, sums_strides, image,
                                          v_factor, first, x, exists, channels, width, V_ORDER,
                                          VECTOR, BLOCK_C)  # fmt: skip
                    gradient = gradient_of(u, others, along, u_factor, factor)
                    block, inside = _block(out_ptr, out_strides, first, x, exists, channels,
                                           width, OUT_ORDER, VECTOR, BLOCK_C)  # fmt: skip
                    gradient = gradient.to(out_ptr.dtype.element_ty)
                    tl.store(pointers_at(block, image), gradient, mask=inside)
        tl.debug_barrier()
        place = end
    if VALUE == 2:
        tl.store(value_ptr + program, tl.sum(total, 0))
