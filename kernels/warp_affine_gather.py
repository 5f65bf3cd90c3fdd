"""Gradient of warp_affine to x: gathered, one writer per input pixel, no atomics.

Idea. The writer of an input pixel looks for the output pixels that sample it: in a box around its
image under the inverse map (warp_affine_boxes). The sum has a fixed order.

Border. Pixels of the frame also receive everything sampled beyond it. The boxes then count what
lies inside the frame alone; tiles at the frame go through the output pixels outside of it, side by
side (warp_affine_scan).

Singular and strongly minifying maps, whose boxes would cover most of the output, are scanned
altogether: right for every map, at one visit per output pixel and touched tile.

Two launches write disjoint tiles: the first those that need boxes alone, the second the others. The
scans are rare, and apart they do not cost the boxes their registers. Which tile is whose depends
on theta, so both look at it; the second finds nothing to do for a usual map without a border.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from fastalign.kernels.sampling import load_map, pixel_offset
from fastalign.kernels.warp_affine_boxes import plan_boxes, walk_boxes
from fastalign.kernels.warp_affine_scan import scan_rows
from fastalign.kernels.warp_affine_taps import at_channels, no_sums, own_tile, tile_lanes
from fastalign.kernels.warp_options import image_strides, tiling


@triton.jit(do_not_specialize=[
    "channels", "in_h", "in_w", "out_h", "out_w", "tiles_x", "tiles", "ranges",
    "g_b", "g_c", "g_h", "g_w", "d_b", "d_c", "d_h", "d_w", "t_b", "t_r", "t_c",
])  # fmt: skip
def _gather(
    grad,  # [B,C,out_h,out_w]
    theta,  # [B,2,3]
    to_x,  # [B,C,in_h,in_w]
    channels, in_h, in_w, out_h, out_w, tiles_x, tiles, ranges,
    g_b, g_c, g_h, g_w, d_b, d_c, d_h, d_w,  # all but those of channels, and channels: in UNITs
    t_b, t_r, t_c,
    NEAREST: tl.constexpr, PADDING: tl.constexpr, ALIGN: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_C: tl.constexpr, LAST: tl.constexpr,
    UNIT: tl.constexpr, WIDE: tl.constexpr, SCAN: tl.constexpr,
):  # fmt: skip
    image, range_of, iy0, ix0 = own_tile(tiles_x, tiles, ranges, TILE_H, TILE_W)
    xx, xy, x0, yx, yy, y0, poison = load_map(
        theta, image, t_b, t_r, t_c, in_h, in_w, out_h, out_w, ALIGN
    )

    (
        ux, uy, vx, vy, half_x, half_y, n_rows, n_columns, copy_x, copy_y, n_across, n_copies
    ) = plan_boxes(
        xx, xy, x0, yx, yy, y0, in_h, in_w, out_h, out_w, NEAREST, PADDING, ALIGN
    )  # fmt: skip
    regular = n_copies > 0
    boxes_alone = regular
    if PADDING == 1:
        inner = (ix0 > 0) & (iy0 > 0) & (ix0 + TILE_W < in_w) & (iy0 + TILE_H < in_h)
        boxes_alone = boxes_alone & inner
    if tl.where(boxes_alone, 1, 0) == (1 if SCAN else 0):  # the other launch writes this tile
        return

    pixel, lane = tile_lanes(TILE_H, TILE_W, BLOCK_C, LAST)
    total = no_sums(TILE_H, TILE_W, BLOCK_C, LAST)
    iy = iy0 + pixel // TILE_W
    ix = ix0 + pixel % TILE_W
    exists = (ix < in_w) & (iy < in_h)
    channel = range_of * BLOCK_C + lane
    here = channel < channels * UNIT
    if WIDE:
        channel = channel.to(tl.int64)
    upstream = grad + image.to(tl.int64) * g_b * UNIT
    result = to_x + image.to(tl.int64) * d_b * UNIT
    upstream_of = at_channels(upstream, 0, channel, g_c, LAST)
    result_of = at_channels(result, 0, channel, d_c, LAST)

    if PADDING == 1 or not SCAN:
        total = walk_boxes(
            total, upstream_of, here, ix, iy, exists,
            xx, xy, x0, yx, yy, y0,
            ux, uy, vx, vy, half_x, half_y, n_rows, n_columns, copy_x, copy_y, n_across, n_copies,
            in_h, in_w, out_h, out_w, g_h, g_w,
            NEAREST, PADDING, ALIGN, UNIT, WIDE,
        )  # fmt: skip
    if SCAN:
        total = scan_rows(
            total, upstream_of, here, ix0, iy0, ix, iy,
            xx, xy, x0, yx, yy, y0, regular,
            in_h, in_w, out_h, out_w, g_h, g_w,
            NEAREST, PADDING, ALIGN, TILE_H, TILE_W, UNIT, WIDE, 2,
        )  # fmt: skip

    # A map that is not finite shows where it sends everything.
    total += tl.where((ix == 0) & (iy == 0), poison, 0.0)
    offset = pixel_offset(iy, ix, d_h, d_w, UNIT, WIDE)
    tl.store(result_of + offset, total.to(to_x.dtype.element_ty), mask=exists & here)


def gather_gradient(
    grad: Tensor, theta: Tensor, to_x: Tensor, mode: str, padding_mode: str, align_corners: bool
) -> None:
    """Write the gradient ``[B,C,H,W]`` that ``grad`` ``[B,C,h,w]`` gives to the input."""
    batch, channels, in_h, in_w = to_x.shape
    out_h, out_w = grad.shape[2:]
    boxes = tiling(
        "warp_affine_backward", grad, to_x,
        size=(in_h, in_w), elements=2048, most_last=128, most_first=8,
    )  # fmt: skip
    # The same tiles in both launches: they are what is shared out. Scans keep more in registers
    # beside the sums.
    scans = boxes._replace(block_c=max(1, boxes.block_c // 2))
    for cut in (boxes, scans):
        ranges = triton.cdiv(channels, cut.block_c)
        _gather[(batch * ranges * cut.tiles,)](
            grad,
            theta,
            to_x,
            channels // cut.unit, in_h, in_w, out_h, out_w, cut.tiles_x, cut.tiles, ranges,
            *image_strides(grad, cut.unit), *image_strides(to_x, cut.unit),
            *theta.stride(),
            NEAREST=mode == "nearest",
            SCAN=cut is scans,
            **cut.constants(padding_mode, align_corners, grad, to_x),
        )  # fmt: skip
