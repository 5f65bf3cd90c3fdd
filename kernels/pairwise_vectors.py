"""pairwise_distance of more channels: the variant ``vectors``.

A program owns one image a at BLOCK_X locations and lets every image b pass by; differences are a
tile ``[C,X]``, summed over channels at once. A vector longer than a tile goes block by block: the
length needs all blocks before the gradient of any, so b is read again for each.

Bytes: of h B times its N elements, N of them from memory and the rest from the second cache, for a
vector of K blocks K + 1 times as much (twice without a gradient at most); the gradient once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastalign.kernels.common import load_at, place_locations, place_map, pointers_at
from fastalign.kernels.pairwise_parts import (
    count_shares,
    length,
    place_shares,
    scaled_weight,
    valid_at,
)


@triton.jit
def _differences(h_ptr, h_strides, a, b, channels, first, x, here, width,
                 ORDER: tl.constexpr, VECTOR: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """Differences of a block of channels ``[C,X]`` of two images."""
    c = first + tl.arange(0, BLOCK_C)
    inside = (c < channels)[:, None] & here[None, :]
    maps = place_map(h_ptr, h_strides, c[:, None], x[None, :], width, ORDER, VECTOR)
    return load_at(maps, a, inside).to(tl.float32) - load_at(maps, b, inside).to(tl.float32)


@triton.jit
def vectors_kernel(
    h_ptr,  # [B,C,H,W]
    mask_ptr,  # uint8 [B,H,W]
    labels_ptr,  # int64 [B]
    share_ptr,  # float32 [B,H*W] or [B,1]
    weight_ptr,  # float32 [B,H,W], unless constant
    out_ptr,  # [B,C,H,W], the gradient
    value_ptr,  # float32 [B,H,W], or one sum for each program
    images, channels, locations, width, share, constant,
    h_strides, out_strides, mask_strides, label_stride, share_strides, weight_strides,
    H_ORDER: tl.constexpr, OUT_ORDER: tl.constexpr, VECTOR: tl.constexpr,
    CHANNEL_VECTOR: tl.constexpr, ROW_VECTOR: tl.constexpr, WIDE: tl.constexpr,
    MASKED: tl.constexpr, GROUPED: tl.constexpr, SHARE: tl.constexpr, WEIGHTED: tl.constexpr,
    SQUARED: tl.constexpr, VALUE: tl.constexpr, GRADIENT: tl.constexpr,
    ONE_BLOCK: tl.constexpr,  # the whole vector is one block of channels
    BLOCK_C: tl.constexpr, BLOCK_X: tl.constexpr,
):  # fmt: skip
    """Values and gradients of one image at BLOCK_X locations."""
    program = tl.program_id(0)
    a = program % images
    x = (program // images) * BLOCK_X + tl.arange(0, BLOCK_X)
    if WIDE:
        x = x.to(tl.int64)
    channels = channels * CHANNEL_VECTOR
    locations = locations * ROW_VECTOR
    share = tl.cast(share, tl.float32)
    constant = tl.cast(constant, tl.float32)
    exists = x < locations
    masks = place_locations(mask_ptr, mask_strides, x, width)
    weights = place_locations(weight_ptr, weight_strides, x, width)
    shares = place_shares(share_ptr, share_strides, x)
    label_step = tl.cast(label_stride, tl.int64)
    valid = valid_at(masks, a, exists, MASKED)
    counted = count_shares(masks, images, exists, SHARE)
    part, scaled = scaled_weight(
        a, exists, valid, counted, share, constant, weights, shares, SHARE, WEIGHTED
    )
    paired = part > 0

    sums = tl.zeros((BLOCK_X,), tl.float32)
    # The walk over images is made once, and once more for each block of a gradient in blocks.
    first = 0
    while first < channels:
        c = first + tl.arange(0, BLOCK_C)
        gradient = tl.zeros((BLOCK_C, BLOCK_X), tl.float32)
        for b in range(0, images):
            pairs = valid & (a != b)
            if MASKED:
                pairs = pairs & valid_at(masks, b, exists, MASKED)
            if GROUPED:
                label = tl.load(labels_ptr + a * label_step)
                pairs = pairs & (tl.load(labels_ptr + b * label_step) == label)
            d = _differences(
                h_ptr, h_strides, a, b, channels, first, x, pairs, width, H_ORDER, VECTOR, BLOCK_C
            )
            squares = tl.sum(d * d, 0)
            if not ONE_BLOCK:
                squares = tl.zeros((BLOCK_X,), tl.float32)
                for start in range(0, channels, BLOCK_C):
                    e = _differences(
                        h_ptr, h_strides, a, b, channels, start, x, pairs, width,
                        H_ORDER, VECTOR, BLOCK_C,
                    )  # fmt: skip
                    squares += tl.sum(e * e, 0)
            distance, factor = length(squares, SQUARED)
            if first == 0:
                sums += distance
            if GRADIENT:
                _, partner = scaled_weight(
                    b, exists, pairs, counted, share, constant, weights, shares, SHARE, WEIGHTED
                )
                gradient += d * ((scaled + partner) * factor)[None, :]
        if GRADIENT:
            inside = (c < channels)[:, None] & exists[None, :]
            results = place_map(
                out_ptr, out_strides, c[:, None], x[None, :], width, OUT_ORDER, VECTOR
            )
            tl.store(pointers_at(results, a), gradient.to(out_ptr.dtype.element_ty), mask=inside)
            first += BLOCK_C
        else:
            first = channels
    value = tl.where(paired, sums * part, 0.0)
    if VALUE == 1:
        tl.store(value_ptr + a * tl.cast(locations, tl.int64) + x, value, mask=exists)
    if VALUE == 2:
        tl.store(value_ptr + program, tl.sum(value, 0))
