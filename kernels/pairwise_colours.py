"""pairwise_distance of up to four channels: the variant ``colours``.

A program owns BLOCK_A images at BLOCK_X locations: their values, sums and gradients lie in
registers, a channel each, while one image b after the other passes by. A channel is a tile
``[A,X]`` of its own, not an axis, since three would be padded to four.

Bytes: h once from memory and the gradient once to it, B / BLOCK_A times h from the second cache;
the mask as often as h.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastalign.kernels.common import place_locations, place_map, pointers_at
from fastalign.kernels.pairwise_parts import (
    count_shares,
    length,
    place_shares,
    scaled_weight,
    valid_at,
)


@triton.jit
def _channel_stride(strides, ORDER: tl.constexpr, VECTOR: tl.constexpr):
    """Elements from one channel to the next."""
    step = strides[1]
    if ORDER == 1:
        step = step * VECTOR
    return step


@triton.jit
def _channel(ptr, channel: tl.constexpr, stride, valid):
    """Values of one channel in float32, 0 where not valid: what lies there reaches no sum."""
    return tl.load(ptr + channel * stride, mask=valid, other=0.0).to(tl.float32)


@triton.jit
def colours_kernel(
    h_ptr,  # [B,C,H,W]
    mask_ptr,  # uint8 [B,H,W]
    labels_ptr,  # int64 [B]
    share_ptr,  # float32 [B,H*W] or [B,1]
    weight_ptr,  # float32 [B,H,W], unless constant
    out_ptr,  # [B,C,H,W], the gradient
    value_ptr,  # float32 [B,H,W], or one sum for each program
    images, locations, width, chunks, share, constant,
    h_strides, out_strides, mask_strides, label_stride, share_strides, weight_strides,
    CHANNELS: tl.constexpr, H_ORDER: tl.constexpr, OUT_ORDER: tl.constexpr,
    VECTOR: tl.constexpr, ROW_VECTOR: tl.constexpr, WIDE: tl.constexpr,
    MASKED: tl.constexpr, GROUPED: tl.constexpr, SHARE: tl.constexpr, WEIGHTED: tl.constexpr,
    SQUARED: tl.constexpr, VALUE: tl.constexpr, GRADIENT: tl.constexpr,
    BLOCK_A: tl.constexpr, BLOCK_X: tl.constexpr,
):  # fmt: skip
    """Values and gradients of BLOCK_A images at BLOCK_X locations."""
    program = tl.program_id(0)
    # A row of locations [1,X] and a column of images [A,1]; what is [A,X] follows from both.
    x = ((program // chunks) * BLOCK_X + tl.arange(0, BLOCK_X))[None, :]
    a = ((program % chunks) * BLOCK_A + tl.arange(0, BLOCK_A))[:, None]
    if WIDE:
        x = x.to(tl.int64)
    locations = locations * ROW_VECTOR
    share = tl.cast(share, tl.float32)
    constant = tl.cast(constant, tl.float32)
    here = x < locations
    exists = (a < images) & here
    maps = place_map(h_ptr, h_strides, 0, x, width, H_ORDER, VECTOR)
    h_channel = _channel_stride(h_strides, H_ORDER, VECTOR)
    masks = place_locations(mask_ptr, mask_strides, x, width)
    weights = place_locations(weight_ptr, weight_strides, x, width)
    shares = place_shares(share_ptr, share_strides, x)
    label_step = tl.cast(label_stride, tl.int64)

    valid = valid_at(masks, a, exists, MASKED)
    counted = count_shares(masks, images, here, SHARE)
    if GROUPED:
        label = tl.load(labels_ptr + a * label_step, mask=a < images, other=0)
    part, scaled = scaled_weight(
        a, exists, valid, counted, share, constant, weights, shares, SHARE, WEIGHTED
    )

    pointers = pointers_at(maps, a)
    a0 = _channel(pointers, 0, h_channel, valid)
    if CHANNELS > 1:
        a1 = _channel(pointers, 1, h_channel, valid)
    if CHANNELS > 2:
        a2 = _channel(pointers, 2, h_channel, valid)
    if CHANNELS > 3:
        a3 = _channel(pointers, 3, h_channel, valid)
    sums = tl.zeros((BLOCK_A, BLOCK_X), tl.float32)
    g0 = tl.zeros((BLOCK_A, BLOCK_X), tl.float32)
    g1 = tl.zeros((BLOCK_A, BLOCK_X), tl.float32)
    g2 = tl.zeros((BLOCK_A, BLOCK_X), tl.float32)
    g3 = tl.zeros((BLOCK_A, BLOCK_X), tl.float32)
    for b in range(0, images):
        there = valid_at(masks, b, here, MASKED)
        theirs = pointers_at(maps, b)
        d0 = a0 - _channel(theirs, 0, h_channel, there)
        if CHANNELS > 1:
            d1 = a1 - _channel(theirs, 1, h_channel, there)
        if CHANNELS > 2:
            d2 = a2 - _channel(theirs, 2, h_channel, there)
        if CHANNELS > 3:
            d3 = a3 - _channel(theirs, 3, h_channel, there)
        if GROUPED:
            # The differences and not the distance alone: an infinite one would reach the gradient.
            same = (label == tl.load(labels_ptr + b * label_step)) & (a != b)
            d0 = tl.where(same, d0, 0.0)
            if CHANNELS > 1:
                d1 = tl.where(same, d1, 0.0)
            if CHANNELS > 2:
                d2 = tl.where(same, d2, 0.0)
            if CHANNELS > 3:
                d3 = tl.where(same, d3, 0.0)
        squares = d0 * d0
        if CHANNELS > 1:
            squares += d1 * d1
        if CHANNELS > 2:
            squares += d2 * d2
        if CHANNELS > 3:
            squares += d3 * d3
        if MASKED:
            squares = tl.where(there, squares, 0.0)
        distance, factor = length(squares, SQUARED)
        sums += distance
        if GRADIENT:
            _, partner = scaled_weight(
                b, here, there, counted, share, constant, weights, shares, SHARE, WEIGHTED
            )
            pair = (scaled + partner) * factor
            if MASKED:
                pair = tl.where(there, pair, 0.0)
            g0 += pair * d0
            if CHANNELS > 1:
                g1 += pair * d1
            if CHANNELS > 2:
                g2 += pair * d2
            if CHANNELS > 3:
                g3 += pair * d3

    # An image without partners has seen itself alone; whatever came of it is not asked for.
    paired = part > 0
    value = tl.where(paired, sums * part, 0.0)
    if VALUE == 1:
        tl.store(value_ptr + a * tl.cast(locations, tl.int64) + x, value, mask=exists)
    if VALUE == 2:
        tl.store(value_ptr + program, tl.sum(tl.sum(value, 1), 0))
    if GRADIENT:
        results = place_map(out_ptr, out_strides, 0, x, width, OUT_ORDER, VECTOR)
        pointers = pointers_at(results, a)
        out_channel = _channel_stride(out_strides, OUT_ORDER, VECTOR)
        _store_channel(pointers, 0, out_channel, g0, paired, exists)
        if CHANNELS > 1:
            _store_channel(pointers, 1, out_channel, g1, paired, exists)
        if CHANNELS > 2:
            _store_channel(pointers, 2, out_channel, g2, paired, exists)
        if CHANNELS > 3:
            _store_channel(pointers, 3, out_channel, g3, paired, exists)


@triton.jit
def _store_channel(ptr, channel: tl.constexpr, stride, gradient, paired, exists):
    gradient = tl.where(paired, gradient, 0.0).to(ptr.dtype.element_ty)
    tl.store(ptr + channel * stride, gradient, mask=exists)
