"""All-pairs distances at every location: Triton kernels.

For image a the mean over its partners b of the length of d = h_a - h_b, and the gradient of a
weighted sum of these means,

    gradient_a = sum over b of (w_a share_a + w_b share_b) d / |d|

where share is one over the number of partners. Every image looks at every other, so both need one
walk over the images and nothing is written but the result.

``colours``  up to four channels: a program holds several images a at some locations, with values,
             sums and gradients in registers, and walks over all images b, whose values come from
             the first cache. N elements read from memory once and written once; B / 8 times as
             much passes the second cache.
``vectors``  more channels: a program holds one image a and walks over all b; B N elements are read,
             mostly from the second cache. Long vectors go block by block and are then read twice,
             for each block of the gradient once more.

The squared distance takes the same walk: the differences are taken first, nothing cancels. Squares
of float32 differences must exist: distances from 1e-18 to 1e18. No atomics: the same call gives the
same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from fastalign.kernels.common import (
    ALONG_CHANNELS,
    addressing,
    float64_limit,
    image_stride,
    map_offsets,
    on_device_of,
    processors,
    sum_parts,
)
from fastalign.kernels.pairwise_plan import COLOURS, plan
from torch import Tensor

from fastalign.ops.layout import empty_locations, empty_maps, empty_scalar, no_gradient

# How many partners an image has: the same everywhere, counted at each location, or from a map.
SHARE_CONSTANT, SHARE_COUNTED, SHARE_MAP = 0, 1, 2
NO_VALUE, VALUE_MAP, VALUE_SUM = 0, 1, 2


@triton.jit
def _share_of(members):
    """One over the number of partners, 0 for an image alone."""
    return tl.where(members > 1.5, 1.0 / tl.maximum(members - 1.0, 1.0), 0.0)


@triton.jit
def _share_kernel(
    labels_ptr,  # int64 [B]
    mask_ptr,  # uint8 [B,H,W]
    share_ptr,  # float32 [B,H*W], or [B,1] without a mask
    images,
    locations,
    width,
    label_stride,
    mask_image,
    mask_row,
    mask_column,
    MASKED: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Share of one image at some locations."""
    image = tl.program_id(0) % images
    x = (tl.program_id(0) // images).to(tl.int64) * BLOCK_X + tl.arange(0, BLOCK_X)
    exists = x < locations
    step = tl.cast(label_stride, tl.int64)
    mask_step = tl.cast(mask_image, tl.int64)
    offsets = (x // width) * mask_row + (x % width) * mask_column
    label = tl.load(labels_ptr + image * step)
    members = tl.zeros((BLOCK_X,), tl.float32)
    for other in range(0, images):
        same = (tl.load(labels_ptr + other * step) == label).to(tl.float32)
        if MASKED:
            valid = tl.load(mask_ptr + other * mask_step + offsets, mask=exists, other=0)
            members += same * (valid != 0).to(tl.float32)
        else:
            members += same
    share = _share_of(members)
    if MASKED:
        valid = tl.load(mask_ptr + image * mask_step + offsets, mask=exists, other=0)
        share = tl.where(valid != 0, share, 0.0)
    tl.store(share_ptr + image * tl.cast(locations, tl.int64) + x, share, mask=exists)


@triton.jit
def _length(squares, SQUARED: tl.constexpr):
    """The distance, and the factor that makes its gradient of a difference."""
    if SQUARED:
        value = squares
        factor = tl.full(squares.shape, 2.0, tl.float32)
    else:
        # At 0 the factor is huge and multiplies a difference of 0; NaN stays NaN.
        factor = tl.rsqrt(tl.maximum(squares, 1.1754944e-38, propagate_nan=tl.PropagateNan.ALL))
        value = squares * factor
    return value, factor


@triton.jit
def _scaled_weight(
    image,
    exists,
    valid,
    counted,
    share,
    constant,
    weight_ptr,
    share_ptr,
    weight_step,
    share_step,
    weight_offsets,
    share_offsets,
    SHARE: tl.constexpr,
    WEIGHTED: tl.constexpr,
):
    """Share of ``image`` and its weight times the share, shaped like ``exists``."""
    if SHARE == 2:
        part = tl.load(share_ptr + image * share_step + share_offsets, mask=exists, other=0.0)
    elif SHARE == 1:
        part = tl.where(valid, counted, 0.0)
    else:
        part = tl.where(exists, share, 0.0)
    if WEIGHTED:
        weight = tl.load(weight_ptr + image * weight_step + weight_offsets, mask=exists, other=0.0)
        scaled = part * weight
    else:
        scaled = part * constant
    return part, scaled


@triton.jit
def _channel(ptr, channel: tl.constexpr, stride, valid):
    """Values of one channel in float32, 0 where not valid: what lies there reaches no sum."""
    return tl.load(ptr + channel * stride, mask=valid, other=0.0).to(tl.float32)


@triton.jit
def _colours_kernel(
    h_ptr,  # [B,C,H,W]
    mask_ptr,  # uint8 [B,H,W]
    labels_ptr,  # int64 [B]
    share_ptr,  # float32 [B,H*W] or [B,1]
    weight_ptr,  # float32 [B,H,W], unless constant
    out_ptr,  # [B,C,H,W], the gradient
    value_ptr,  # float32 [B,H,W], or one sum for each program
    images,
    locations,
    width,
    chunks,
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
    CHANNELS: tl.constexpr,
    H_ORDER: tl.constexpr,
    OUT_ORDER: tl.constexpr,
    VECTOR: tl.constexpr,
    ROW_VECTOR: tl.constexpr,
    WIDE: tl.constexpr,
    MASKED: tl.constexpr,
    GROUPED: tl.constexpr,
    SHARE: tl.constexpr,
    WEIGHTED: tl.constexpr,
    SQUARED: tl.constexpr,
    VALUE: tl.constexpr,
    GRADIENT: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
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
    h_offsets = map_offsets(0, x, 0, h_row, h_column, width, H_ORDER, VECTOR)
    h_step = image_stride(h_image, H_ORDER, VECTOR)
    if H_ORDER == 1:
        h_channel = h_channel * VECTOR
    mask_offsets = (x // width) * mask_row + (x % width) * mask_column
    mask_step = tl.cast(mask_image, tl.int64)
    weight_offsets = (x // width) * weight_row + (x % width) * weight_column
    weight_step = tl.cast(weight_image, tl.int64)
    share_offsets = x * share_location
    share_step = tl.cast(share_image, tl.int64)
    label_step = tl.cast(label_stride, tl.int64)

    valid = exists
    counted = tl.zeros((1, BLOCK_X), tl.float32)
    if MASKED:
        valid = tl.load(mask_ptr + a * mask_step + mask_offsets, mask=exists, other=0) != 0
    if SHARE == 1:
        for b in range(0, images):
            there = tl.load(mask_ptr + b * mask_step + mask_offsets, mask=here, other=0) != 0
            counted += there.to(tl.float32)
        counted = _share_of(counted)
    if GROUPED:
        label = tl.load(labels_ptr + a * label_step, mask=a < images, other=0)
    part, scaled = _scaled_weight(
        a, exists, valid, counted, share, constant, weight_ptr, share_ptr, weight_step, share_step,
        weight_offsets, share_offsets, SHARE, WEIGHTED,
    )  # fmt: skip

    pointers = h_ptr + a * h_step + h_offsets
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
        there = here
        if MASKED:
            there = tl.load(mask_ptr + b * mask_step + mask_offsets, mask=here, other=0) != 0
        theirs = h_ptr + b * h_step + h_offsets
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
        distance, factor = _length(squares, SQUARED)
        sums += distance
        if GRADIENT:
            _, partner = _scaled_weight(
                b, here, there, counted, share, constant, weight_ptr, share_ptr, weight_step,
                share_step, weight_offsets, share_offsets, SHARE, WEIGHTED,
            )  # fmt: skip
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
        out_step = image_stride(out_image, OUT_ORDER, VECTOR)
        offsets = map_offsets(0, x, 0, out_row, 0, width, OUT_ORDER, VECTOR)
        pointers = out_ptr + a * out_step + offsets
        if OUT_ORDER == 1:
            out_channel = out_channel * VECTOR
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


@triton.jit
def _squares(h_ptr, a, b, h_step, channels, x, here, first, stride, row, column, width,
             ORDER: tl.constexpr, VECTOR: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """Differences of a block of channels ``[C,X]`` of two images."""
    c = first + tl.arange(0, BLOCK_C)
    inside = (c < channels)[:, None] & here[None, :]
    offsets = map_offsets(c[:, None], x[None, :], stride, row, column, width, ORDER, VECTOR)
    ours = tl.load(h_ptr + a * h_step + offsets, mask=inside, other=0.0).to(tl.float32)
    theirs = tl.load(h_ptr + b * h_step + offsets, mask=inside, other=0.0).to(tl.float32)
    return ours - theirs


@triton.jit
def _vectors_kernel(
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
        counted = _share_of(counted)
    part, scaled = _scaled_weight(
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
            d = _squares(h_ptr, a, b, h_step, channels, x, pairs, first, h_channel, h_row,
                         h_column, width, H_ORDER, VECTOR, BLOCK_C)  # fmt: skip
            squares = tl.sum(d * d, 0)
            if not ONE_BLOCK:
                squares = tl.zeros((BLOCK_X,), tl.float32)
                for start in range(0, channels, BLOCK_C):
                    e = _squares(h_ptr, a, b, h_step, channels, x, pairs, start, h_channel, h_row,
                                 h_column, width, H_ORDER, VECTOR, BLOCK_C)  # fmt: skip
                    squares += tl.sum(e * e, 0)
            distance, factor = _length(squares, SQUARED)
            if first == 0:
                sums += distance
            if GRADIENT:
                _, partner = _scaled_weight(
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


def _share_map(labels: Tensor, mask: Tensor | None) -> Tensor:
    """Share of each image, at each location where there is a mask: float32 ``[B,H*W or 1]``."""
    images = labels.numel()
    locations = 1 if mask is None else mask[0].numel()
    shares = labels.new_empty((images, locations), dtype=torch.float32)
    block = min(256, triton.next_power_of_2(locations))
    _share_kernel[(images * triton.cdiv(locations, block),)](
        labels,
        labels if mask is None else mask.view(torch.uint8),
        shares,
        images,
        locations,
        1 if mask is None else mask.shape[2],
        labels.stride(0),
        *((0, 0, 0) if mask is None else mask.stride()),
        MASKED=mask is not None,
        BLOCK_X=block,
        num_warps=2 if block > 32 else 1,
    )
    return shares


def _launch(
    h: Tensor,
    mask: Tensor | None,
    groups: Tensor | None,
    squared: bool,
    *,
    weight: Tensor | None = None,
    constant: float = 1.0,
    out: Tensor | None = None,
    values: Tensor | None = None,
    value: int = NO_VALUE,
) -> Tensor | None:
    """Run the kernels; for ``VALUE_SUM`` returns the sums to be added."""
    images, channels, height, width = h.shape
    maps = addressing(h, h if out is None else out)
    sizes = plan(
        images,
        channels,
        height * width,
        h.element_size(),
        maps.maps[0].order == ALONG_CHANNELS,
        processors(h),
    )
    with on_device_of(h):
        shares = None if groups is None else _share_map(groups, mask)
        how = SHARE_CONSTANT if mask is None else SHARE_COUNTED
        sums = None
        if value == VALUE_SUM:
            sums = values = h.new_empty((sizes.programs,), dtype=torch.float32)
        tensors = (
            h,
            h if mask is None else mask.view(torch.uint8),
            h if groups is None else groups,
            h if shares is None else shares,
            h if weight is None else weight,
            h if out is None else out,
            h if values is None else values,
        )
        steps = (
            *maps.maps[0][1:],
            *maps.maps[1][1:4],
            *((0, 0, 0) if mask is None else mask.stride()),
            0 if groups is None else groups.stride(0),
            *((0, 0) if shares is None else (shares.shape[1], int(mask is not None))),
            *((0, 0, 0) if weight is None else weight.stride()),
        )
        options = {
            "H_ORDER": maps.maps[0].order,
            "OUT_ORDER": maps.maps[1].order,
            "VECTOR": maps.vector,
            "ROW_VECTOR": maps.row_vector,
            "WIDE": maps.wide,
            "MASKED": mask is not None,
            "GROUPED": groups is not None,
            "SHARE": how if groups is None else SHARE_MAP,
            "WEIGHTED": weight is not None,
            "SQUARED": squared,
            "VALUE": value,
            "GRADIENT": out is not None,
            "BLOCK_X": sizes.block_x,
            "num_warps": sizes.warps,
        }
        share = 1 / (images - 1) if images > 1 else 0.0
        if channels <= COLOURS:
            _colours_kernel[(sizes.programs,)](
                *tensors,
                images,
                maps.locations,
                width,
                sizes.chunks,
                share,
                constant,
                *steps,
                CHANNELS=channels,
                BLOCK_A=sizes.block_a,
                **options,
            )
        else:
            _vectors_kernel[(sizes.programs,)](
                *tensors,
                images,
                maps.channels,
                maps.locations,
                width,
                share,
                constant,
                *steps,
                CHANNEL_VECTOR=maps.channel_vector,
                ONE_BLOCK=channels <= sizes.block_c,
                BLOCK_C=sizes.block_c,
                **options,
            )
    return sums


def can_run(op: str, *tensors: Tensor) -> str | None:
    """Why these kernels cannot serve ``op``, or None."""
    return float64_limit(*tensors)


def pairwise_distance(
    h: Tensor, mask: Tensor | None, groups: Tensor | None, squared: bool
) -> Tensor:
    """See ``fastalign.ops.pairwise_distance``."""
    values = empty_locations(h)
    if h.numel() == 0:
        return values.zero_()
    _launch(h, mask, groups, squared, values=values, value=VALUE_MAP)
    return values


def pairwise_distance_backward(
    grad: Tensor, h: Tensor, mask: Tensor | None, groups: Tensor | None, squared: bool
) -> Tensor:
    """Gradient of ``sum(grad * pairwise_distance)`` to h."""
    out = empty_maps(h)
    if h.numel() > 0:
        _launch(h, mask, groups, squared, weight=grad, out=out)
    return out


def pairwise_distance_loss(
    h: Tensor, mask: Tensor | None, groups: Tensor | None, squared: bool, need_h: bool
) -> tuple[Tensor, Tensor]:
    """The mean of ``pairwise_distance`` and its gradient to h."""
    loss = empty_scalar(h)
    out = empty_maps(h) if need_h else no_gradient(h)
    if h.numel() == 0:
        return loss.zero_(), out
    images, _, height, width = h.shape
    constant = 1 / (images * height * width)
    sums = _launch(
        h,
        mask,
        groups,
        squared,
        constant=constant,
        out=out if need_h else None,
        value=VALUE_SUM,
    )
    with on_device_of(h):
        sum_parts(sums, constant, loss)
    return loss, out
