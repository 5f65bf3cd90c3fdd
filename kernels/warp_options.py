"""How the warp kernels are cut up: tiles, ranges of channels, offsets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import triton
from torch import Tensor

from fastalign.ops.triton_plans import forced, refuse

PADDING_MODES = {"zeros": 0, "border": 1, "reflection": 2}

# Measured of the plans that these and the kernels' tiles lead to, on one H200 (benchmarks/results/
# gpu/nvidia-h200-counters.md), float32: warp_affine takes 233 us for 8x3x1024x1024 and 60.4 for
# 8x64x128x128. No number was timed alone, so all are estimates. The way to time them:
#   python benchmarks/ops.py --device cuda --backends triton --only warp_affine
#       --plan "warp_affine.triton: pixels, channels" --plan "warp_affine.triton: warps"
#       --plan "warp_affine_backward.triton: pixels, channels"

# Of a program: 128 threads for a tile of 128 pixels of a plane, or of 2048 numbers.
_WARPS = 4

# Programs beyond which channels are not split any more: eight for each of 132 multiprocessors.
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


def tile_for(kernel: str, pixels: int, height: int, width: int) -> tuple[int, int]:
    """A tile of about ``pixels`` unless others are forced, both sides powers of two, no larger than
    the map needs."""
    pixels = forced(kernel).get("pixels", pixels)
    tile_w = min(power_of_two(width), 16)
    tile_h = max(1, min(power_of_two(height), pixels // tile_w))
    tile_w = max(tile_w, min(power_of_two(width), pixels // tile_h))
    return tile_h, tile_w


def block_of(kernel: str, channels: int, unit: int) -> int:
    """Channels of a block: what is forced, else ``channels``; whole units of a load.

    Raises:
        BackendError: a plan that is forced does not serve.
    """
    block = forced(kernel).get("channels", channels)
    if block % unit:
        refuse(kernel, "channels", f"these maps are loaded {unit} channels at once")
    return block


def warps_of(kernel: str) -> int:
    """Warps of a program."""
    return forced(kernel).get("warps", _WARPS)


def channel_ranges(channels: int, block: int, programs: int) -> tuple[int, int]:
    """Into how many ranges channels are split so that few tiles still fill the GPU, and of what."""
    blocks = triton.cdiv(channels, block)
    ranges = max(1, min(blocks, _ENOUGH_PROGRAMS // max(programs, 1)))
    per_range = triton.cdiv(blocks, ranges) * block
    return triton.cdiv(channels, per_range), per_range


class Tiling(NamedTuple):
    """How a launch is cut into tiles of pixels and blocks of channels."""

    last: bool  # lanes run along channels, else along the pixels of a row
    unit: int  # elements in which strides and channels are counted
    block_c: int
    tile_h: int
    tile_w: int
    tiles_x: int  # tiles side by side
    tiles: int  # of an image
    warps: int

    def constants(self, padding_mode: str, align_corners: bool, *maps: Tensor) -> dict[str, int]:
        """The constants that every warp kernel takes, and its warps."""
        return {
            "PADDING": PADDING_MODES[padding_mode],
            "ALIGN": align_corners,
            "TILE_H": self.tile_h,
            "TILE_W": self.tile_w,
            "BLOCK_C": self.block_c,
            "LAST": self.last,
            "UNIT": self.unit,
            "WIDE": is_wide(*maps),
            "num_warps": self.warps,
        }


def tiling(
    kernel: str,
    *maps: Tensor,
    size: Sequence[int],
    elements: int,
    most_last: int,
    most_first: int,
) -> Tiling:
    """The tiles of one launch.

    Args:
        kernel: whose plan may be forced.
        maps: ``[B,C,H,W]``, all that the kernel walks over by channels.
        size: height and width of the map that the tiles cover.
        elements: of a tile where lanes run along channels; else it has 128 pixels.
        most_last: channels of a block at most where lanes run along channels.
        most_first: channels of a block at most where they do not.

    Raises:
        BackendError: a plan that is forced does not serve.
    """
    last = lanes_along_channels(*maps)
    unit = alignment(*maps) if last else 1
    most = min(power_of_two(maps[0].shape[1]), most_last if last else most_first)
    block_c = block_of(kernel, most, unit)
    pixels = max(16, elements // block_c) if last else 128
    tile_h, tile_w = tile_for(kernel, pixels, *size)
    tiles_x = triton.cdiv(size[1], tile_w)
    tiles = tiles_x * triton.cdiv(size[0], tile_h)
    return Tiling(last, unit, block_c, tile_h, tile_w, tiles_x, tiles, warps_of(kernel))
