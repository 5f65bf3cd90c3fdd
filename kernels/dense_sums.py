"""S of dense_similarity, the sum of unit vectors: in the kernel that needs it, or ahead of it.

With few locations the images are dealt out to several programs, of which each would have to sum all
of them. Without groups all need the same S: ``partial_sums_kernel`` then sums each chunk once, and
every program adds what the chunks left.

Bytes: v once, and chunks x C x H x W float32 written; the program of every chunk reads those of all
chunks, from the second cache, which is why a chunk has several images (dense_plan).
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastalign.kernels.common import load_at, place_locations, place_map, pointers_at
from fastalign.kernels.dense_parts import image_at, inverse_length


@triton.jit
def unit_at(place, image, inside, POLICY: tl.constexpr):
    """Vectors ``[C,X]`` of an image in float32, and one over their lengths ``[X]``."""
    pointers = pointers_at(place, image)
    vectors = tl.load(pointers, mask=inside, other=0, eviction_policy=POLICY).to(tl.float32)
    return vectors, inverse_length(tl.sum(vectors * vectors, 0))


@triton.jit
def sum_of_units(
    vectors, weights, order_ptr, first, last, inside, exists,
    GROUPED: tl.constexpr, WEIGHTED: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Sum ``[C,X]`` of the unit vectors at places first .. last - 1, weighted for WEIGHTED 2."""
    sums = tl.zeros(inside.shape, tl.float32)
    for place in tl.range(first, last, num_stages=STAGES):
        image = image_at(order_ptr, place, GROUPED)
        v, factor = unit_at(vectors, image, inside, "")
        if WEIGHTED == 2:
            factor *= load_at(weights, image, exists)
        sums += v * factor[None, :]
    return sums


@triton.jit
def own_tile(
    part_of, locations, channels, BLOCK_C: tl.constexpr, BLOCK_X: tl.constexpr, WIDE: tl.constexpr
):
    """Channels ``[C]`` and locations ``[X]`` of a tile, which locations and entries there are."""
    x = part_of * BLOCK_X + tl.arange(0, BLOCK_X)
    c = tl.arange(0, BLOCK_C)
    if WIDE:
        x = x.to(tl.int64)
        c = c.to(tl.int64)
    exists = x < locations
    return c, x, exists, (c < channels)[:, None] & exists[None, :]


@triton.jit
def sums_offsets(c, x, channels, locations, ORDER: tl.constexpr):
    """Offsets ``[C,X]`` within S: it lies in memory as v does, without gaps."""
    if ORDER == 2:
        offsets = c[:, None] + x[None, :] * channels
    else:
        offsets = c[:, None] * locations + x[None, :]
    return offsets


@triton.jit
def partial_sums_kernel(
    v_ptr,  # [B,C,H,W]
    weight_ptr,  # float32 [B,H,W], read for WEIGHTED 2
    parts_ptr,  # float32 [chunks,C,H*W], written
    images, channels, locations, width, chunk, chunks, v_strides, weight_strides,
    V_ORDER: tl.constexpr, VECTOR: tl.constexpr, CHANNEL_VECTOR: tl.constexpr,
    ROW_VECTOR: tl.constexpr, WIDE: tl.constexpr, WEIGHTED: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_X: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Sums of the (weighted) unit vectors of a chunk of images at a block of locations."""
    part = tl.program_id(0) % chunks
    channels = channels * CHANNEL_VECTOR
    locations = locations * ROW_VECTOR
    c, x, exists, inside = own_tile(
        tl.program_id(0) // chunks, locations, channels, BLOCK_C, BLOCK_X, WIDE
    )
    vectors = place_map(v_ptr, v_strides, c[:, None], x[None, :], width, V_ORDER, VECTOR)
    weights = place_locations(weight_ptr, weight_strides, x, width)
    first = part * chunk
    last = min(first + chunk, images)
    sums = sum_of_units(
        vectors, weights, weight_ptr, first, last, inside, exists, False, WEIGHTED, STAGES
    )
    offsets = sums_offsets(c, x, channels, locations, V_ORDER)
    size = tl.cast(channels, tl.int64) * locations
    tl.store(parts_ptr + part * size + offsets, sums, mask=inside)
