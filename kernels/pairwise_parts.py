"""What both kernels of pairwise_distance compute alike: lengths, shares and weights."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def share_of(members):
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
    share = share_of(members)
    if MASKED:
        valid = tl.load(mask_ptr + image * mask_step + offsets, mask=exists, other=0)
        share = tl.where(valid != 0, share, 0.0)
    tl.store(share_ptr + image * tl.cast(locations, tl.int64) + x, share, mask=exists)


@triton.jit
def length(squares, SQUARED: tl.constexpr):
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
def scaled_weight(
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


def share_map(labels: Tensor, mask: Tensor | None) -> Tensor:
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
