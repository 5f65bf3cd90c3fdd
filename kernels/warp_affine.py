"""warp_affine forward: affine resampling without a grid tensor.

Idea. A program owns a tile of output pixels and a range of channels. It computes the map from
theta, then once per pixel the position, four offsets and four weights, and walks over its channels
with them: four loads, four multiply-adds and a store per element. Lanes run along the pixels of a
tile 16 wide, so that a warp covers two short rows and a turned map still touches few lines; where
channels are contiguous, lanes run along channels, 16 bytes each.

Bytes: x about once (neighbouring taps meet in L1), the result once, theta.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastalign.kernels.common import float64_limit
from fastalign.kernels.sampling import load_map, pixel_offset
from fastalign.kernels.warp_affine_backward import warp_affine_backward
from fastalign.kernels.warp_affine_taps import (
    at_channels,
    find_taps,
    load_tap,
    load_taps,
    own_tile,
    tile_lanes,
)
from fastalign.kernels.warp_options import channel_ranges, image_strides, tiling
from fastalign.ops.layout import empty_maps

__all__ = ["can_run", "warp_affine", "warp_affine_backward"]


@triton.jit(do_not_specialize=[
    "channels", "in_h", "in_w", "out_h", "out_w", "tiles_x", "tiles", "ranges", "per_range",
    "x_b", "x_c", "x_h", "x_w", "o_b", "o_c", "o_h", "o_w", "t_b", "t_r", "t_c",
])  # fmt: skip
def _forward(
    x,  # [B,C,in_h,in_w]
    theta,  # [B,2,3]
    out,  # [B,C,out_h,out_w]
    channels, in_h, in_w, out_h, out_w, tiles_x, tiles, ranges, per_range,
    x_b, x_c, x_h, x_w, o_b, o_c, o_h, o_w,  # all four of an image and channels: in UNITs
    t_b, t_r, t_c,
    NEAREST: tl.constexpr, PADDING: tl.constexpr, ALIGN: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_C: tl.constexpr, LAST: tl.constexpr,
    UNIT: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    image, range_of, oy0, ox0 = own_tile(tiles_x, tiles, ranges, TILE_H, TILE_W)
    xx, xy, x0, yx, yy, y0, poison = load_map(
        theta, image, t_b, t_r, t_c, in_h, in_w, out_h, out_w, ALIGN
    )

    pixel, lane = tile_lanes(TILE_H, TILE_W, BLOCK_C, LAST)
    oy = oy0 + pixel // TILE_W
    ox = ox0 + pixel % TILE_W
    (
        visible, offset, in_left, in_right, in_top, in_low, right_share, low_share, _, _
    ) = find_taps(
        ox, oy, xx, xy, x0, yx, yy, y0, in_h, in_w, out_h, out_w, x_h, x_w,
        NEAREST, PADDING, ALIGN, UNIT, WIDE,
    )  # fmt: skip
    if WIDE:
        lane = lane.to(tl.int64)
    below = x_h * UNIT
    beside = x_w * UNIT
    target = pixel_offset(oy, ox, o_h, o_w, UNIT, WIDE)
    source = x + image.to(tl.int64) * x_b * UNIT
    result = out + image.to(tl.int64) * o_b * UNIT
    left_share = 1.0 - right_share
    up_share = 1.0 - low_share
    # poison is 0, or NaN for a map that is not finite.
    w00 = up_share * left_share + poison
    w01 = up_share * right_share
    w10 = low_share * left_share
    w11 = low_share * right_share

    begin = range_of * per_range
    end = tl.minimum(begin + per_range, channels) * UNIT
    for first in range(begin * UNIT, end, BLOCK_C):
        channel = first + lane
        here = channel < end
        taps = at_channels(source, offset, channel, x_c, LAST)
        to = at_channels(result, target, channel, o_c, LAST)
        if NEAREST:
            value = load_tap(taps, here & in_top & in_left)
            value += poison
        else:
            v00, v01, v10, v11 = load_taps(
                taps, below, beside, here, in_left, in_right, in_top, in_low
            )
            value = v00 * w00 + v01 * w01 + v10 * w10 + v11 * w11
        tl.store(to, value.to(out.dtype.element_ty), mask=here & visible)


def can_run(op: str, x: Tensor, *others: Tensor) -> str | None:
    """Why the kernels cannot serve these tensors, or None; theta may be float64."""
    return float64_limit(x)


def warp_affine(
    x: Tensor,
    theta: Tensor,
    size: Sequence[int],
    mode: str,
    padding_mode: str,
    align_corners: bool,
) -> Tensor:
    """See ``fastalign.ops.warp_affine``."""
    out = empty_maps(x, size)
    if out.numel() == 0:
        return out
    batch, channels, in_h, in_w = x.shape
    out_h, out_w = size
    cut = tiling("warp_affine", x, out, size=size, elements=2048, most_last=64, most_first=4)
    unit, tiles = cut.unit, cut.tiles
    ranges, per_range = channel_ranges(channels, cut.block_c, batch * tiles)
    with torch.cuda.device_of(x):
        _forward[(batch * ranges * tiles,)](
            x,
            theta,
            out,
            channels // unit, in_h, in_w, out_h, out_w,
            cut.tiles_x, tiles, ranges, per_range // unit,
            *image_strides(x, unit), *image_strides(out, unit),
            *theta.stride(),
            NEAREST=mode == "nearest",
            **cut.constants(padding_mode, align_corners, x, out),
        )  # fmt: skip
    return out
