"""Gradients of warp_affine to theta, and the launches of both gradients.

Gradient of theta. A program owns a tile of output pixels and a range of channels, as forward; per
pixel it sums the gradient by position over the channels in float32, over the tile in float64, also
times the output coordinates, and writes six numbers in theta's own units. A second stage adds them
in float64.
Gradient of x: see warp_affine_gather. No atomics anywhere, so every call is deterministic.

Bytes: grad and x once for theta; grad about once and dx once for x.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastalign.kernels.sampling import load_map, pixel_offset
from fastalign.kernels.warp_affine_gather import gather_gradient
from fastalign.kernels.warp_affine_taps import (
    at_channels,
    find_taps,
    load_tap,
    load_taps,
    no_sums,
    own_tile,
    tile_lanes,
)
from fastalign.kernels.warp_options import channel_ranges, image_strides, tiling
from fastalign.ops.layout import empty_maps, no_gradient


@triton.jit
def _normalised_axis(count, ALIGN: tl.constexpr):
    """Normalised coordinate of output index i: slope * i + start."""
    n = count.to(tl.float64)
    if ALIGN:
        slope = 2.0 / tl.maximum(n - 1.0, 1.0)
        start = n * 0.0 - 1.0
    else:
        slope = 2.0 / n
        start = 1.0 / n - 1.0
    several = count > 1
    return tl.where(several, slope, 0.0), tl.where(several, start, 0.0)


@triton.jit(do_not_specialize=[
    "channels", "in_h", "in_w", "out_h", "out_w", "tiles_x", "tiles", "ranges", "per_range",
    "g_b", "g_c", "g_h", "g_w", "x_b", "x_c", "x_h", "x_w", "t_b", "t_r", "t_c",
])  # fmt: skip
def _theta_gradient(
    grad,  # [B,C,out_h,out_w]
    x,  # [B,C,in_h,in_w]
    theta,  # [B,2,3]
    partials,  # [B,ranges,tiles,6] float64
    channels, in_h, in_w, out_h, out_w, tiles_x, tiles, ranges, per_range,
    g_b, g_c, g_h, g_w, x_b, x_c, x_h, x_w,  # all but those of channels: in UNITs
    t_b, t_r, t_c,
    PADDING: tl.constexpr, ALIGN: tl.constexpr,
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
        visible, offset, in_left, in_right, in_top, in_low, right_share, low_share, slope_x, slope_y
    ) = find_taps(
        ox, oy, xx, xy, x0, yx, yy, y0, in_h, in_w, out_h, out_w, x_h, x_w,
        False, PADDING, ALIGN, UNIT, WIDE,
    )  # fmt: skip
    if WIDE:
        lane = lane.to(tl.int64)
    below = x_h * UNIT
    beside = x_w * UNIT
    origin = pixel_offset(oy, ox, g_h, g_w, UNIT, WIDE)
    source = x + image.to(tl.int64) * x_b * UNIT
    upstream = grad + image.to(tl.int64) * g_b * UNIT
    right_share += poison  # 0, or NaN for a map that is not finite
    low_share += poison
    left_share = 1.0 - right_share
    up_share = 1.0 - low_share

    by_x = no_sums(TILE_H, TILE_W, BLOCK_C, LAST)
    by_y = no_sums(TILE_H, TILE_W, BLOCK_C, LAST)
    begin = range_of * per_range
    end = tl.minimum(begin + per_range, channels) * UNIT
    for first in range(begin * UNIT, end, BLOCK_C):
        channel = first + lane
        here = channel < end
        taps = at_channels(source, offset, channel, x_c, LAST)
        at = at_channels(upstream, origin, channel, g_c, LAST)
        g = load_tap(at, here & visible)
        v00, v01, v10, v11 = load_taps(taps, below, beside, here, in_left, in_right, in_top, in_low)
        by_x += g * ((v01 - v00) * up_share + (v11 - v10) * low_share)
        by_y += g * ((v10 - v00) * left_share + (v11 - v01) * right_share)
    if LAST:
        pixel_x = tl.sum(by_x * slope_x, axis=1)
        pixel_y = tl.sum(by_y * slope_y, axis=1)
    else:
        pixel_x = tl.sum(by_x * slope_x, axis=0)
        pixel_y = tl.sum(by_y * slope_y, axis=0)
    # Sums of both signs over a tile and its coordinates: in float64 they keep what is left.
    pixel_x = pixel_x.to(tl.float64)
    pixel_y = pixel_y.to(tl.float64)
    flat = tl.arange(0, TILE_H * TILE_W)
    column = (flat % TILE_W).to(tl.float64)
    row = (flat // TILE_W).to(tl.float64)
    x_column = tl.sum(pixel_x * column, axis=0)
    x_row = tl.sum(pixel_x * row, axis=0)
    x_all = tl.sum(pixel_x, axis=0)
    y_column = tl.sum(pixel_y * column, axis=0)
    y_row = tl.sum(pixel_y * row, axis=0)
    y_all = tl.sum(pixel_y, axis=0)

    # Position is linear in theta: d(source pixel) / d(row of theta) = pixels per unit of the source
    # times the normalised output coordinates and 1.
    slope_col, start_col = _normalised_axis(out_w, ALIGN)
    slope_row, start_row = _normalised_axis(out_h, ALIGN)
    at_col = ox0.to(tl.float64) * slope_col + start_col
    at_row = oy0.to(tl.float64) * slope_row + start_row
    if ALIGN:
        unit_x = 0.5 * (in_w - 1).to(tl.float64)
        unit_y = 0.5 * (in_h - 1).to(tl.float64)
    else:
        unit_x = 0.5 * in_w.to(tl.float64)
        unit_y = 0.5 * in_h.to(tl.float64)
    to = partials + tl.program_id(0).to(tl.int64) * 6
    tl.store(to, unit_x * (slope_col * x_column + at_col * x_all))
    tl.store(to + 1, unit_x * (slope_row * x_row + at_row * x_all))
    tl.store(to + 2, unit_x * x_all)
    tl.store(to + 3, unit_y * (slope_col * y_column + at_col * y_all))
    tl.store(to + 4, unit_y * (slope_row * y_row + at_row * y_all))
    tl.store(to + 5, unit_y * y_all)


def _gradient_of_theta(
    grad: Tensor, x: Tensor, theta: Tensor, padding_mode: str, align_corners: bool
) -> Tensor:
    batch, channels, in_h, in_w = x.shape
    out_h, out_w = grad.shape[2:]
    cut = tiling(
        "warp_affine_backward", x, grad,
        size=(out_h, out_w), elements=1024, most_last=64, most_first=4,
    )  # fmt: skip
    unit, tiles = cut.unit, cut.tiles
    ranges, per_range = channel_ranges(channels, cut.block_c, batch * tiles)
    partials = torch.empty((batch, ranges * tiles, 6), dtype=torch.float64, device=x.device)
    _theta_gradient[(batch * ranges * tiles,)](
        grad,
        x,
        theta,
        partials,
        channels // unit, in_h, in_w, out_h, out_w,
        cut.tiles_x, tiles, ranges, per_range // unit,
        *image_strides(grad, unit), *image_strides(x, unit),
        *theta.stride(),
        **cut.constants(padding_mode, align_corners, x, grad),
    )  # fmt: skip
    return partials.sum(1).view(batch, 2, 3).to(theta.dtype)


def warp_affine_backward(
    grad: Tensor,
    x: Tensor,
    theta: Tensor,
    mode: str,
    padding_mode: str,
    align_corners: bool,
    need_x: bool,
    need_theta: bool,
    deterministic: bool,
) -> tuple[Tensor, Tensor]:
    """See ``fastalign.ops.warp_affine``; deterministic whether asked for or not."""
    to_x, to_theta = no_gradient(x), no_gradient(theta)
    nothing = grad.numel() == 0
    with torch.cuda.device_of(x):
        if need_x:
            to_x = empty_maps(x)
            if nothing:
                to_x.zero_()
            else:
                gather_gradient(grad, theta, to_x, mode, padding_mode, align_corners)
        if need_theta:
            if nothing or mode == "nearest":
                to_theta = theta.new_zeros(theta.shape)
            else:
                to_theta = _gradient_of_theta(grad, x, theta, padding_mode, align_corners)
    return to_x, to_theta
