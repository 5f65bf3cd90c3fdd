"""What both kernels of pairwise_distance compute alike: lengths, shares and weights.

Shapes are those of the caller's tile: ``[X]`` for one image, ``[A,X]`` for several.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastalign.kernels.common import load_at, place_locations


@triton.jit
def share_of(members):
    """One over the number of partners, 0 for an image alone."""
    return tl.where(members > 1.5, 1.0 / tl.maximum(members - 1.0, 1.0), 0.0)


@triton.jit
def _share_kernel(
    labels_ptr,  # int64 [B]
    mask_ptr,  # uint8 [B,H,W]
    share_ptr,  # float32 [B,H*W], or [B,1] without a mask
    images, locations, width, label_stride, mask_strides,
    MASKED: tl.constexpr, BLOCK_X: tl.constexpr,
):  # fmt: skip
    """Share of one image at some locations.

    Bytes: the mask B times, from the second cache, and the labels; the shares written once. It runs
    with groups alone, ahead of the distances: there every pair would count both images again.
    """
    image = tl.program_id(0) % images
    x = (tl.program_id(0) // images).to(tl.int64) * BLOCK_X + tl.arange(0, BLOCK_X)
    exists = x < locations
    step = tl.cast(label_stride, tl.int64)
    masks = place_locations(mask_ptr, mask_strides, x, width)
    label = tl.load(labels_ptr + image * step)
    members = tl.zeros((BLOCK_X,), tl.float32)
    for other in range(0, images):
        same = (tl.load(labels_ptr + other * step) == label).to(tl.float32)
        if MASKED:
            members += same * (load_at(masks, other, exists) != 0).to(tl.float32)
        else:
            members += same
    share = share_of(members)
    if MASKED:
        share = tl.where(load_at(masks, image, exists) != 0, share, 0.0)
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
def valid_at(masks, image, exists, MASKED: tl.constexpr):
    """Where an image counts: what exists, and what the placed masks do not rule out."""
    valid = exists
    if MASKED:
        valid = load_at(masks, image, exists) != 0
    return valid


@triton.jit
def count_shares(masks, images, here, SHARE: tl.constexpr):
    """Share at each location of every image that is valid there, for SHARE 1; else 0, unread."""
    counted = tl.zeros(here.shape, tl.float32)
    if SHARE == 1:
        for b in range(0, images):
            counted += (load_at(masks, b, here) != 0).to(tl.float32)
        counted = share_of(counted)
    return counted


@triton.jit
def scaled_weight(
    image, exists, valid, counted, share, constant, weights, shares,
    SHARE: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """Share of ``image`` and its weight times the share, shaped like ``exists``.

    Args:
        image, exists, valid: whose, which locations there are, and which of them count.
        counted, share, shares: where the share comes from: ``count_shares`` for SHARE 1, the placed
            map of shares for 2, else the one number.
        constant, weights: the placed map of weights if WEIGHTED, else the one number.
    """
    if SHARE == 2:
        part = load_at(shares, image, exists)
    elif SHARE == 1:
        part = tl.where(valid, counted, 0.0)
    else:
        part = tl.where(exists, share, 0.0)
    if WEIGHTED:
        scaled = part * load_at(weights, image, exists)
    else:
        scaled = part * constant
    return part, scaled


@triton.jit
def place_shares(ptr, strides, x):
    """A ``[B,H*W]`` or ``[B,1]`` tensor at locations ``x``."""
    return ptr, tl.cast(strides[0], tl.int64), x * strides[1]


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
        (0, 0, 0) if mask is None else mask.stride(),
        MASKED=mask is not None,
        BLOCK_X=block,
        num_warps=2 if block > 32 else 1,
    )
    return shares
