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

from fastalign.kernels.sampling import load_map, pad_axis, position, split_axis
from fastalign.kernels.warp_affine_backward import warp_affine_backward
from fastalign.kernels.warp_options import (
    PADDING_MODES,
    alignment,
    channel_ranges,
    image_strides,
    is_wide,
    lanes_along_channels,
    power_of_two,
    tile_for,
)
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
    program = tl.program_id(0)
    tile = program % tiles
    image = program // tiles // ranges
    range_of = program // tiles % ranges
    oy0 = tile // tiles_x * TILE_H
    ox0 = tile % tiles_x * TILE_W
    xx, xy, x0, yx, yy, y0, poison = load_map(
        theta, image, t_b, t_r, t_c, in_h, in_w, out_h, out_w, ALIGN
    )

    pixel = tl.arange(0, TILE_H * TILE_W)
    lane = tl.arange(0, BLOCK_C)
    if LAST:
        pixel = pixel[:, None]
        lane = lane[None, :]
    else:
        pixel = pixel[None, :]
        lane = lane[:, None]
    oy = oy0 + pixel // TILE_W
    ox = ox0 + pixel % TILE_W
    at_x, _ = pad_axis(position(xx, xy, x0, ox, oy), in_w, PADDING, ALIGN)
    at_y, _ = pad_axis(position(yx, yy, y0, ox, oy), in_h, PADDING, ALIGN)
    left, right_share = split_axis(at_x, NEAREST)
    top, low_share = split_axis(at_y, NEAREST)
    visible = (ox < out_w) & (oy < out_h)
    in_left = (left >= 0) & (left < in_w) & visible
    in_top = (top >= 0) & (top < in_h)
    in_right = (left >= -1) & (left < in_w - 1) & visible
    in_low = (top >= -1) & (top < in_h - 1)
    if WIDE:
        left = left.to(tl.int64)
        top = top.to(tl.int64)
        ox = ox.to(tl.int64)
        oy = oy.to(tl.int64)
        lane = lane.to(tl.int64)
    offset = (top * x_h + left * x_w) * UNIT
    below = x_h * UNIT
    beside = x_w * UNIT
    target = (oy * o_h + ox * o_w) * UNIT
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
        if LAST:
            taps = source + (offset + channel)
            to = result + (target + channel)
        else:
            taps = source + (offset + channel * x_c)
            to = result + (target + channel * o_c)
        if NEAREST:
            value = tl.load(taps, mask=here & in_top & in_left, other=0.0).to(tl.float32)
            value += poison
        else:
            v00 = tl.load(taps, mask=here & in_top & in_left, other=0.0).to(tl.float32)
            v01 = tl.load(taps + beside, mask=here & in_top & in_right, other=0.0).to(tl.float32)
            v10 = tl.load(taps + below, mask=here & in_low & in_left, other=0.0).to(tl.float32)
            v11 = tl.load(
                taps + (below + beside), mask=here & in_low & in_right, other=0.0
            ).to(tl.float32)  # fmt: skip
            value = v00 * w00 + v01 * w01 + v10 * w10 + v11 * w11
        tl.store(to, value.to(out.dtype.element_ty), mask=here & visible)


def can_run(op: str, x: Tensor, *others: Tensor) -> str | None:
    """Why the kernels cannot serve these tensors, or None."""
    if x.dtype == torch.float64:
        return "the Triton kernels take float32, float16 and bfloat16, given float64"
    return None


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
    last = lanes_along_channels(x, out)
    unit = alignment(x, out) if last else 1
    block_c = min(power_of_two(channels), 64) if last else min(power_of_two(channels), 4)
    tile_h, tile_w = tile_for(max(16, 2048 // block_c) if last else 128, out_h, out_w)
    tiles_x = triton.cdiv(out_w, tile_w)
    tiles = tiles_x * triton.cdiv(out_h, tile_h)
    ranges, per_range = channel_ranges(channels, block_c, batch * tiles)
    with torch.cuda.device_of(x):
        _forward[(batch * ranges * tiles,)](
            x,
            theta,
            out,
            channels // unit, in_h, in_w, out_h, out_w, tiles_x, tiles, ranges, per_range // unit,
            *image_strides(x, unit), *image_strides(out, unit),
            *theta.stride(),
            NEAREST=mode == "nearest",
            PADDING=PADDING_MODES[padding_mode],
            ALIGN=align_corners,
                TILE_H=tile_h,
            TILE_W=tile_w,
            BLOCK_C=block_c,
            LAST=last,
            UNIT=unit,
            WIDE=is_wide(x, out),
            num_warps=4,
        )  # fmt: skip
    return out
