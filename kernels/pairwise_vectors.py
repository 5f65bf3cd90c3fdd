"""pairwise_distance of more channels: the variant ``vectors``."""

from __future__ import annotations

import triton
import triton.language as tl

from fastalign.kernels.common import image_stride, map_offsets
from fastalign.kernels.pairwise_parts import length, scaled_weight, share_of


@triton.jit
def _differences(h_ptr, a, b, h_step, channels, x, here, first, stride, row, column, width,
                 ORDER: tl.constexpr, VECTOR: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """Differences of a block of channels ``[C,X]`` of two images."""
    c = first + tl.arange(0, BLOCK_C)
    inside = (c < channels)[:, None] & here[None, :]
    offsets = map_offsets(c[:, None], x[None, :], stride, row, column, width, ORDER, VECTOR)
    ours = tl.load(h_ptr + a * h_step + offsets, mask=inside, other=0.0).to(tl.float32)
    theirs = tl.load(h_ptr + b * h_step + offsets, mask=inside, other=0.0).to(tl.float32)
    return ours - theirs


@triton.jit
def vectors_kernel(
    h_ptr,  # [B,C,H,W]
    mask_ptr,  # uint8 [B,H,W]
    labels_ptr,  # int64 [B]
    share_ptr,  # float32 [B,H*W] or [B,1]
    weight_ptr,  # float32 [B,H,W], unless constant
    out_ptr,  # [B,C,H,W], the gradient
    value_ptr,  # float32 [B,H,W], or one sum for each program
    images,
    channels,
    locations,
    width,
    share,
    constant,
    h_image,
    h_channel,
    h_row,
    h_column,
    out_image,
    out_channel,
    out_row,
    mask_image,
    mask_row,
    mask_column,
    label_stride,
    share_image,
    share_location,
    weight_image,
    weight_row,
    weight_column,
    H_ORDER: tl.constexpr,
    OUT_ORDER: tl.constexpr,
    VECTOR: tl.constexpr,
    CHANNEL_VECTOR: tl.constexpr,
    ROW_VECTOR: tl.constexpr,
    WIDE: tl.constexpr,
    MASKED: tl.constexpr,
    GROUPED: tl.constexpr,
    SHARE: tl.constexpr,
    WEIGHTED: tl.constexpr,
    SQUARED: tl.constexpr,
    VALUE: tl.constexpr,
    GRADIENT: tl.constexpr,
    ONE_BLOCK: tl.constexpr,  # the whole vector is one block of channels
    BLOCK_C: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
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
    h_step = image_stride(h_image, H_ORDER, VECTOR)
    out_step = image_stride(out_image, OUT_ORDER, VECTOR)
    mask_offsets = (x // width) * mask_row + (x % width) * mask_column
    mask_step = tl.cast(mask_image, tl.int64)
    weight_offsets = (x // width) * weight_row + (x % width) * weight_column
    weight_step = tl.cast(weight_image, tl.int64)
    share_offsets = x * share_location
    share_step = tl.cast(share_image, tl.int64)
    label_step = tl.cast(label_stride, tl.int64)
    valid = exists
    counted = tl.zeros((BLOCK_X,), tl.float32)
    if MASKED:
        valid = tl.load(mask_ptr + a * mask_step + mask_offsets, mask=exists, other=0) != 0
    if SHARE == 1:
        for b in range(0, images):
            there = tl.load(mask_ptr + b * mask_step + mask_offsets, mask=exists, other=0) != 0
            counted += there.to(tl.float32)
        counted = share_of(counted)
    part, scaled = scaled_weight(
        a, exists, valid, counted, share, constant, weight_ptr, share_ptr, weight_step, share_step,
        weight_offsets, share_offsets, SHARE, WEIGHTED,
    )  # fmt: skip
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
                there = tl.load(mask_ptr + b * mask_step + mask_offsets, mask=exists, other=0)
                pairs = pairs & (there != 0)
            if GROUPED:
                label = tl.load(labels_ptr + a * label_step)
                pairs = pairs & (tl.load(labels_ptr + b * label_step) == label)
            d = _differences(h_ptr, a, b, h_step, channels, x, pairs, first, h_channel, h_row,
                             h_column, width, H_ORDER, VECTOR, BLOCK_C)  # fmt: skip
            squares = tl.sum(d * d, 0)
            if not ONE_BLOCK:
                squares = tl.zeros((BLOCK_X,), tl.float32)
                for start in range(0, channels, BLOCK_C):
                    e = _differences(h_ptr, a, b, h_step, channels, x, pairs, start, h_channel,
                                     h_row, h_column, width, H_ORDER, VECTOR, BLOCK_C)  # fmt: skip
                    squares += tl.sum(e * e, 0)
            distance, factor = length(squares, SQUARED)
            if first == 0:
                sums += distance
            if GRADIENT:
                _, partner = scaled_weight(
                    b, exists, pairs, counted, share, constant, weight_ptr, share_ptr, weight_step,
                    share_step, weight_offsets, share_offsets, SHARE, WEIGHTED,
                )  # fmt: skip
                gradient += d * ((scaled + partner) * factor)[None, :]
        if GRADIENT:
            inside = (c < channels)[:, None] & exists[None, :]
            offsets = map_offsets(
                c[:, None], x[None, :], out_channel, out_row, 0, width, OUT_ORDER, VECTOR
            )
            tl.store(
                out_ptr + a * out_step + offsets,
                gradient.to(out_ptr.dtype.element_ty),
                mask=inside,
            )
            first += BLOCK_C
        else:
            first = channels
    value = tl.where(paired, sums * part, 0.0)
    if VALUE == 1:
        tl.store(value_ptr + a * tl.cast(locations, tl.int64) + x, value, mask=exists)
    if VALUE == 2:
        tl.store(value_ptr + program, tl.sum(value, 0))
