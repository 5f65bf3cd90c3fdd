"""dense_similarity of vectors too long for registers: the variant ``looped``.

The same sums as in ``dense_similarity``, block by block of channels. A program owns its locations
alone, so what it writes to memory and reads back (S and the lengths) is its own.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastalign.kernels.common import image_stride, map_offsets


@triton.jit
def inverse_length(squares):
    """One over the length, 0 for a vector of zeros; NaN stays NaN."""
    zero = squares < 1.1754944e-38
    return tl.where(zero, 0.0, tl.rsqrt(tl.where(zero, 1.0, squares)))


@triton.jit
def _block(ptr, first, x, exists, channels, channel, row, column, width,
           ORDER: tl.constexpr, VECTOR: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """Pointers to a block of channels ``[C,X]``, and which of them exist."""
    c = first + tl.arange(0, BLOCK_C)
    offsets = map_offsets(c[:, None], x[None, :], channel, row, column, width, ORDER, VECTOR)
    return ptr + offsets, (c < channels)[:, None] & exists[None, :]


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
    images,
    channels,
    locations,
    width,
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
    VALUE: tl.constexpr,
    GRADIENT: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Values and gradients of all images at a block of locations."""
    program = tl.program_id(0)
    x = program * BLOCK_X + tl.arange(0, BLOCK_X)
    if WIDE:
        x = x.to(tl.int64)
    channels = channels * CHANNEL_VECTOR
    locations = locations * ROW_VECTOR
    constant = tl.cast(constant, tl.float32)
    exists = x < locations
    weight_offsets = (x // width) * weight_row + (x % width) * weight_column
    u_step = image_stride(u_image, U_ORDER, VECTOR)
    v_step = image_stride(v_image, V_ORDER, VECTOR)
    out_step = image_stride(out_image, OUT_ORDER, VECTOR)
    weight_step = tl.cast(weight_image, tl.int64)
    size = tl.cast(locations, tl.int64)
    # S lies in memory as v does.
    if V_ORDER == 2:
        sums_channel = 1
        sums_row = channels
    else:
        sums_channel = size
        sums_row = 1
    total = tl.zeros((BLOCK_X,), tl.float32)
    place = 0
    while place < images:
        end = images
        if GROUPED:
            end = tl.load(order_ptr + 2 * images + place)
        for current in range(place, end):
            image = current
            if GROUPED:
                image = tl.load(order_ptr + current)
            squares = tl.zeros((BLOCK_X,), tl.float32)
            for first in range(0, channels, BLOCK_C):
                pointers, inside = _block(v_ptr + image * v_step, first, x, exists, channels,
                                          v_channel, v_row, v_column, width, V_ORDER, VECTOR,
                                          BLOCK_C)  # fmt: skip
                v = tl.load(pointers, mask=inside, other=0.0).to(tl.float32)
                squares += tl.sum(v * v, 0)
            factor = inverse_length(squares)
            if WEIGHTED == 2:
                factor *= tl.load(
                    weight_ptr + image * weight_step + weight_offsets, mask=exists, other=0.0
                )
            tl.store(factors_ptr + image * size + x, factor, mask=exists)
        tl.debug_barrier()
        for first in range(0, channels, BLOCK_C):
            sums = tl.zeros((BLOCK_C, BLOCK_X), tl.float32)
            for current in range(place, end):
                image = current
                if GROUPED:
                    image = tl.load(order_ptr + current)
                pointers, inside = _block(v_ptr + image * v_step, first, x, exists, channels,
                                          v_channel, v_row, v_column, width, V_ORDER, VECTOR,
                                          BLOCK_C)  # fmt: skip
                factor = tl.load(factors_ptr + image * size + x, mask=exists, other=0.0)
                v = tl.load(pointers, mask=inside, other=0.0).to(tl.float32)
                sums += v * factor[None, :]
            pointers, inside = _block(sums_ptr, first, x, exists, channels, sums_channel, sums_row,
                                      0, 1, 0, 1, BLOCK_C)  # fmt: skip
            tl.store(pointers, sums, mask=inside)
        tl.debug_barrier()
        partners = end - place - 1
        share = tl.where(partners > 0, 1.0 / tl.maximum(partners, 1).to(tl.float32), 0.0)
        for current in range(place, end):
            image = current
            if GROUPED:
                image = tl.load(order_ptr + current)
            v_factor = tl.load(factors_ptr + image * size + x, mask=exists, other=0.0)
            squares = tl.zeros((BLOCK_X,), tl.float32)
            along = tl.zeros((BLOCK_X,), tl.float32)
            for first in range(0, channels, BLOCK_C):
                pointers, inside = _block(u_ptr + image * u_step, first, x, exists, channels,
                                          u_channel, u_row, u_column, width, U_ORDER, VECTOR,
                                          BLOCK_C)  # fmt: skip
                u = tl.load(pointers, mask=inside, other=0.0).to(tl.float32)
                others = _others(v_ptr + image * v_step, sums_ptr, first, x, exists, channels,
                                 v_channel, v_row, v_column, width, sums_channel, sums_row,
                                 v_factor, V_ORDER, VECTOR, BLOCK_C)  # fmt: skip
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
                    factor *= tl.load(
                        weight_ptr + image * weight_step + weight_offsets, mask=exists, other=0.0
                    )
                if WEIGHTED == 0:
                    factor *= constant
                for first in range(0, channels, BLOCK_C):
                    pointers, inside = _block(u_ptr + image * u_step, first, x, exists, channels,
                                              u_channel, u_row, u_column, width, U_ORDER, VECTOR,
                                              BLOCK_C)  # fmt: skip
                    u = tl.load(pointers, mask=inside, other=0.0).to(tl.float32)
                    others = _others(v_ptr + image * v_step, sums_ptr, first, x, exists, channels,
                                     v_channel, v_row, v_column, width, sums_channel, sums_row,
                                     v_factor, V_ORDER, VECTOR, BLOCK_C)  # fmt: skip
                    gradient = (others - u * (along * u_factor)[None, :]) * factor[None, :]
                    gradient = tl.where((u_factor == 0)[None, :] & (u == 0), 0.0, gradient)
                    pointers, inside = _block(out_ptr + image * out_step, first, x, exists,
                                              channels, out_channel, out_row, 0, width, OUT_ORDER,
                                              VECTOR, BLOCK_C)  # fmt: skip
                    tl.store(pointers, gradient.to(out_ptr.dtype.element_ty), mask=inside)
        tl.debug_barrier()
        place = end
    if VALUE == 2:
        tl.store(value_ptr + program, tl.sum(total, 0))


@triton.jit
def _others(v_ptr, sums_ptr, first, x, exists, channels, channel, row, column, width,
            sums_channel, sums_row, factor,
            ORDER: tl.constexpr, VECTOR: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """S without the image's own part, for a block of channels."""
    pointers, inside = _block(v_ptr, first, x, exists, channels, channel, row, column, width,
                              ORDER, VECTOR, BLOCK_C)  # fmt: skip
    v = tl.load(pointers, mask=inside, other=0.0).to(tl.float32)
    pointers, inside = _block(sums_ptr, first, x, exists, channels, sums_channel, sums_row, 0,
                              1, 0, 1, BLOCK_C)  # fmt: skip
    return tl.load(pointers, mask=inside, other=0.0) - v * factor[None, :]
