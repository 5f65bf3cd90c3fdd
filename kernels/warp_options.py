"""How the warp kernels are cut up: tiles, ranges of channels, offsets."""

from __future__ import annotations

import math

import triton
from torch import Tensor

PADDING_MODES = {"zeros": 0, "border": 1, "reflection": 2}

# Programs that fill a large GPU several times over; beyond, channels are not split any more.
_ENOUGH_PROGRAMS = 1056


def power_of_two(count: int) -> int:
    """The smallest power of two that is at least ``count``."""
    return triton.next_power_of_2(count)


def lanes_along_channels(*maps: Tensor) -> bool:
    """Whether all maps have contiguous channels, enough of them to be worth it."""
    return all(x.shape[1] > 1 and x.stride(1) == 1 for x in maps)


def alignment(*maps: Tensor) -> int:
    """Elements of the widest load, up to 16 bytes, that all pixels of the maps are aligned to.

    Given as a factor of strides and channels it lets the compiler see the alignment.
    """
    widest = 16 // min(x.element_size() for x in maps)
    strides = [abs(x.stride(d)) for x in maps for d in (0, 2, 3) if x.shape[d] > 1]
    return math.gcd(widest, maps[0].shape[1], *strides)


def image_strides(x: Tensor, unit: int) -> tuple[int, ...]:
    """Strides in units, that of channels in elements; of an axis of one element 0."""
    strides = [x.stride(d) if x.shape[d] > 1 else 0 for d in range(4)]
    return strides[0] // unit, strides[1], strides[2] // unit, strides[3] // unit


def is_wide(*maps: Tensor) -> bool:
    """Whether an offset inside one image, or one step outside of it, can leave 32 bits."""
    return any(sum((x.shape[d] + 2) * abs(x.stride(d)) for d in range(1, 4)) >= 2**31 for x in maps)


def tile_for(pixels: int, height: int, width: int) -> tuple[int, int]:
    """A tile of about ``pixels``, both sides powers of two, no larger than the map needs."""
    tile_w = min(power_of_two(width), 16)
    tile_h = max(1, min(power_of_two(height), pixels // tile_w))
    tile_w = max(tile_w, min(power_of_two(width), pixels // tile_h))
    return tile_h, tile_w


def channel_ranges(channels: int, block: int, programs: int) -> tuple[int, int]:
    """Into how many ranges channels are split so that few tiles still fill the GPU, and of what."""
    blocks = triton.cdiv(channels, block)
    ranges = max(1, min(blocks, _ENOUGH_PROGRAMS // max(programs, 1)))
    per_range = triton.cdiv(blocks, ranges) * block
    return triton.cdiv(channels, per_range), per_range
