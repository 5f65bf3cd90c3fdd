"""Gradient of warp_affine to x: gathered, one writer per input pixel, no atomics.

Idea. Input pixel (ix, iy) is sampled by the output pixels whose position lies within one pixel of
it: they lie in the inverse image of a square, inside a box whose size is the same for all pixels
of an image. The lanes of a tile walk over their boxes in step: each candidate's position is
computed as forward does and its share of the pixel multiplies its gradient. A box that is too large
by rounding costs time only. The sum has a fixed order.

Border. Pixels of the frame also receive everything sampled beyond it. The boxes then count what
lies inside the frame alone; tiles at the frame go through the output pixels outside of it, side by
side: along an output row those that reach the tile are one interval.

Reflection. The plane is a tiling of mirrored copies of the image: the boxes are walked for each
copy that the output reaches, counting what was folded that many times.

Singular and strongly minifying maps, whose boxes would cover most of the output, are scanned by
rows as the outside is: right for every map, at one visit per output pixel and touched tile.
"""

from __future__ import annotations

import triton
import triton.language as tl
from fastalign.kernels.sampling import axis_at, load_map, pad_axis, reflect, share_of
from fastalign.kernels.warp_options import (
    PADDING_MODES,
    alignment,
    image_strides,
    is_wide,
    lanes_along_channels,
    position_type,
    power_of_two,
    tile_for,
)
from torch import Tensor

_UNBOUNDED = tl.constexpr(1e300)


@triton.jit
def _narrow(slope, inverse, least, greatest, low, high, count):
    """The integers [first, last) of [0, count) near which slope * i + [least, greatest] meets
    (low, high); some more at either end."""
    slack = 1e-6 + 1e-12 * (tl.abs(least) + tl.abs(greatest))
    low -= greatest + slack
    high -= least - slack
    one = low * inverse
    two = high * inverse
    n = count.to(tl.float64)
    first = tl.floor(tl.minimum(tl.maximum(tl.minimum(one, two) - 1.0, 0.0), n))
    last = tl.floor(tl.maximum(tl.minimum(tl.maximum(one, two) + 3.0, n), 0.0))
    flat = inverse == 0.0
    missed = (low > 0.0) | (high < 0.0)
    first = tl.where(flat, 0.0, first)
    last = tl.where(flat, tl.where(missed, 0.0, n), last)
    return first.to(tl.int32), last.to(tl.int32)


@triton.jit
def _inverse_of(slope):
    """1 / slope; 0 for one so flat that no output is wide enough to notice."""
    flat = tl.abs(slope) < 1e-13
    return tl.where(flat, 0.0, 1.0 / tl.where(flat, 1.0, slope))


@triton.jit
def _copies(xx, xy, x0, out_h, out_w, size, ALIGN: tl.constexpr):
    """First mirrored copy of an axis that the output reaches, and how many there are."""
    across = xx * (out_w - 1).to(tl.float64)
    down = xy * (out_h - 1).to(tl.float64)
    least = x0 + tl.minimum(across, 0.0) + tl.minimum(down, 0.0)
    greatest = x0 + tl.maximum(across, 0.0) + tl.maximum(down, 0.0)
    _, first, _ = reflect(least - 1e-6, size, ALIGN)
    _, last, _ = reflect(greatest + 1e-6, size, ALIGN)
    return first, last - first + 1.0


@triton.jit
def _unfolded(pixel, copy, size, ALIGN: tl.constexpr):
    """Position of a pixel in a mirrored copy of its axis."""
    at = pixel.to(tl.float64)
    if ALIGN:
        low = 0.0
        span = tl.maximum(size - 1, 1).to(tl.float64)
    else:
        low = -0.5
        span = size.to(tl.float64)
    odd = copy - 2.0 * tl.floor(copy * 0.5) != 0.0
    return tl.where(odd, (copy + 1.0) * span + 2.0 * low - at, at + copy * span)


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
    NEAREST: tl.constexpr, PADDING: tl.constexpr, ALIGN: tl.constexpr, POS: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_C: tl.constexpr, LAST: tl.constexpr,
    UNIT: tl.constexpr, WIDE: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    tile = program % tiles
    image = program // tiles // ranges
    range_of = program // tiles % ranges
    iy0 = tile // tiles_x * TILE_H
    ix0 = tile % tiles_x * TILE_W
    xx, xy, x0, yx, yy, y0, poison = load_map(
        theta, image, t_b, t_r, t_c, in_h, in_w, out_h, out_w, ALIGN
    )

    pixel = tl.arange(0, TILE_H * TILE_W)
    lane = tl.arange(0, BLOCK_C)
    if LAST:
        pixel = pixel[:, None]
        lane = lane[None, :]
        total = tl.zeros([TILE_H * TILE_W, BLOCK_C], tl.float32)
    else:
        pixel = pixel[None, :]
        lane = lane[:, None]
        total = tl.zeros([BLOCK_C, TILE_H * TILE_W], tl.float32)
    iy = iy0 + pixel // TILE_W
    ix = ix0 + pixel % TILE_W
    exists = (ix < in_w) & (iy < in_h)
    channel = range_of * BLOCK_C + lane
    here = channel < channels * UNIT
    if WIDE:
        channel = channel.to(tl.int64)
    upstream = grad + image.to(tl.int64) * g_b * UNIT
    result = to_x + image.to(tl.int64) * d_b * UNIT
    if LAST:
        upstream_of = upstream + channel
        result_of = result + channel
    else:
        upstream_of = upstream + channel * g_c
        result_of = result + channel * d_c

    # Boxes of candidates: half their sides, and the number of integers in one.
    determinant = xx * yy - xy * yx
    squares = (xx * xx + xy * xy) + (yx * yx + yy * yy)
    invertible = tl.abs(determinant) > 1e-9 * squares
    inverse = 1.0 / tl.where(invertible, determinant, 1.0)
    ux = yy * inverse
    uy = -xy * inverse
    vx = -yx * inverse
    vy = xx * inverse
    if NEAREST:
        radius = 0.501
    else:
        radius = 1.001
    half_x = radius * (tl.abs(ux) + tl.abs(uy)) + 1e-3
    half_y = radius * (tl.abs(vx) + tl.abs(vy)) + 1e-3
    columns = tl.minimum(tl.floor(2.0 * half_x) + 1.0, out_w.to(tl.float64))
    rows = tl.minimum(tl.floor(2.0 * half_y) + 1.0, out_h.to(tl.float64))
    work = rows * columns
    copy_x = x0 * 0.0
    copy_y = x0 * 0.0
    copies_x = copy_x + 1.0
    copies_y = copy_x + 1.0
    if PADDING == 2:
        copy_x, copies_x = _copies(xx, xy, x0, out_h, out_w, in_w, ALIGN)
        copy_y, copies_y = _copies(yx, yy, y0, out_h, out_w, in_h, ALIGN)
        work *= copies_x * copies_y
    outputs = out_h.to(tl.float64) * out_w.to(tl.float64)
    regular = invertible & (work <= tl.maximum(64.0, 0.125 * outputs))
    n_columns = tl.where(regular, columns, 0.0).to(tl.int32)
    n_rows = tl.where(regular, rows, 0.0).to(tl.int32)
    n_across = tl.where(regular, copies_x, 0.0).to(tl.int32)
    n_copies = tl.where(regular, copies_x * copies_y, 0.0).to(tl.int32)

    # Positions relative to the output pixel that samples the middle of the tile.
    middle_x = (ix0 + TILE_W // 2).to(tl.float64) - x0
    middle_y = (iy0 + TILE_H // 2).to(tl.float64) - y0
    last_ox = (out_w - 1).to(tl.float64)
    last_oy = (out_h - 1).to(tl.float64)
    ox0 = tl.minimum(tl.maximum(ux * middle_x + uy * middle_y, 0.0), last_ox).to(tl.int32)
    oy0 = tl.minimum(tl.maximum(vx * middle_x + vy * middle_y, 0.0), last_oy).to(tl.int32)
    step_xx, step_xy, rest_x, base_x = axis_at(xx, xy, x0, ox0, oy0, POS)
    step_yx, step_yy, rest_y, base_y = axis_at(yx, yy, y0, ox0, oy0, POS)
    if POS == tl.float64:  # no origin
        ox0 = ox0 * 0
        oy0 = oy0 * 0

    for copy in range(0, n_copies):
        if PADDING == 2:
            fold_x = copy_x + (copy % n_across).to(tl.float64)
            fold_y = copy_y + (copy // n_across).to(tl.float64)
            from_x = _unfolded(ix, fold_x, in_w, ALIGN) - x0
            from_y = _unfolded(iy, fold_y, in_h, ALIGN) - y0
        else:
            from_x = ix.to(tl.float64) - x0
            from_y = iy.to(tl.float64) - y0
        u = ux * from_x + uy * from_y
        v = vx * from_x + vy * from_y
        reached = (u + half_x >= 0.0) & (u - half_x <= last_ox)
        reached = reached & (v + half_y >= 0.0) & (v - half_y <= last_oy) & exists
        # Boxes are moved, not cut, to lie in the output: their shares are computed anyway.
        u = tl.minimum(tl.maximum(u - half_x, 0.0), (out_w - n_columns).to(tl.float64))
        v = tl.minimum(tl.maximum(v - half_y, 0.0), (out_h - n_rows).to(tl.float64))
        first_ox = (-tl.floor(-u)).to(tl.int32)
        first_oy = (-tl.floor(-v)).to(tl.int32)
        any_reached = tl.max(tl.max(reached.to(tl.int32), axis=1), axis=0)
        for row in range(0, n_rows * any_reached):
            oy = first_oy + row
            from_row = (oy - oy0).to(POS)
            row_x = tl.fma(from_row, step_xy, rest_x)
            row_y = tl.fma(from_row, step_yy, rest_y)
            for column in range(0, n_columns):
                ox = first_ox + column
                from_column = (ox - ox0).to(POS)
                at_x = tl.fma(from_column, step_xx, row_x)
                at_y = tl.fma(from_column, step_yx, row_y)
                counts = exists
                if PADDING == 1:
                    inside_x = (at_x >= 0.0) & (at_x <= (in_w - 1).to(POS))
                    inside_y = (at_y >= 0.0) & (at_y <= (in_h - 1).to(POS))
                    counts = counts & inside_x & inside_y
                if PADDING == 2:
                    _, folded_x, _ = reflect(at_x, in_w, ALIGN)
                    _, folded_y, _ = reflect(at_y, in_h, ALIGN)
                    counts = counts & (folded_x == fold_x) & (folded_y == fold_y)
                    at_x, _ = pad_axis(at_x, base_x, in_w, PADDING, ALIGN)
                    at_y, _ = pad_axis(at_y, base_y, in_h, PADDING, ALIGN)
                share = share_of(at_x, base_x, ix, NEAREST) * share_of(at_y, base_y, iy, NEAREST)
                counts = counts & (share > 0.0)
                if WIDE:
                    offset = (tl.cast(oy, tl.int64) * g_h + tl.cast(ox, tl.int64) * g_w) * UNIT
                else:
                    offset = (oy * g_h + ox * g_w) * UNIT
                g = tl.load(upstream_of + offset, mask=counts & here, other=0.0).to(tl.float32)
                total += tl.where(counts, share, 0.0) * g

    # Scans: 0 to 3 of what lies left, right, above and below the frame, 4 of everything.
    scans = 4
    first_scan = 4 * (n_copies == 0).to(tl.int32)
    if PADDING != 1:
        scans = first_scan
    scans += (n_copies == 0).to(tl.int32)
    for scan in range(first_scan, scans):
        at_left = ix0 == 0
        at_right = ix0 + TILE_W >= in_w
        at_top = iy0 == 0
        at_bottom = iy0 + TILE_H >= in_h
        low_x = (ix0 - 1).to(tl.float64)
        high_x = (ix0 + TILE_W).to(tl.float64)
        low_y = (iy0 - 1).to(tl.float64)
        high_y = (iy0 + TILE_H).to(tl.float64)
        end_x = (in_w - 1).to(tl.float64)
        end_y = (in_h - 1).to(tl.float64)
        touched = scan == 4
        if PADDING != 0:
            low_x = tl.where(at_left | (PADDING == 2), -_UNBOUNDED, low_x)
            high_x = tl.where(at_right | (PADDING == 2), _UNBOUNDED, high_x)
            low_y = tl.where(at_top | (PADDING == 2), -_UNBOUNDED, low_y)
            high_y = tl.where(at_bottom | (PADDING == 2), _UNBOUNDED, high_y)
        if PADDING == 1:
            touched = (
                touched
                | ((scan == 0) & at_left)
                | ((scan == 1) & at_right)
                | ((scan == 2) & at_top)
                | ((scan == 3) & at_bottom)
            )
            # What lies left and right of the frame is theirs, the corners with it.
            vertical = (scan == 2) | (scan == 3)
            high_x = tl.where(scan == 0, 0.0, tl.where(vertical, tl.minimum(high_x, end_x), high_x))
            low_x = tl.where(scan == 1, end_x, tl.where(vertical, tl.maximum(low_x, 0.0), low_x))
            high_y = tl.where(scan == 2, 0.0, high_y)
            low_y = tl.where(scan == 3, end_y, low_y)
        # Rows: with any column of the output.
        across_x = xx * last_ox
        across_y = yx * last_ox
        first_a, last_a = _narrow(
            xy, _inverse_of(xy), x0 + tl.minimum(across_x, 0.0), x0 + tl.maximum(across_x, 0.0),
            low_x, high_x, out_h,
        )  # fmt: skip
        first_b, last_b = _narrow(
            yy, _inverse_of(yy), y0 + tl.minimum(across_y, 0.0), y0 + tl.maximum(across_y, 0.0),
            low_y, high_y, out_h,
        )  # fmt: skip
        first_row = tl.maximum(first_a, first_b)
        last_row = tl.where(touched, tl.minimum(last_a, last_b), first_row)
        inverse_x = _inverse_of(xx)
        inverse_y = _inverse_of(yx)
        for oy in range(first_row, last_row):
            from_row = tl.cast(oy, tl.float64)
            row_x = tl.fma(from_row, xy, x0)
            row_y = tl.fma(from_row, yy, y0)
            first_c, last_c = _narrow(xx, inverse_x, row_x, row_x, low_x, high_x, out_w)
            first_d, last_d = _narrow(yx, inverse_y, row_y, row_y, low_y, high_y, out_w)
            last_c = tl.minimum(last_c, last_d)
            for first in range(tl.maximum(first_c, first_d), last_c, TOGETHER):
                for k in tl.static_range(TOGETHER):
                    ox = first + k
                    from_column = tl.cast(ox, tl.float64)
                    at_x = tl.fma(from_column, xx, row_x)
                    at_y = tl.fma(from_column, yx, row_y)
                    counts = ox < last_c
                    if PADDING == 1:
                        inside_x = (at_x >= 0.0) & (at_x <= end_x)
                        counts = counts & (
                            (scan == 4)
                            | ((scan == 0) & (at_x < 0.0))
                            | ((scan == 1) & (at_x > end_x))
                            | ((scan == 2) & (at_y < 0.0) & inside_x)
                            | ((scan == 3) & (at_y > end_y) & inside_x)
                        )
                    if PADDING != 0:
                        if PADDING == 2:
                            at_x, _, _ = reflect(at_x, in_w, ALIGN)
                            at_y, _, _ = reflect(at_y, in_h, ALIGN)
                        at_x = tl.minimum(tl.maximum(at_x, 0.0), end_x)
                        at_y = tl.minimum(tl.maximum(at_y, 0.0), end_y)
                    share = share_of(at_x, 0, ix, NEAREST) * share_of(at_y, 0, iy, NEAREST)
                    if WIDE:
                        offset = (tl.cast(oy, tl.int64) * g_h + tl.cast(ox, tl.int64) * g_w) * UNIT
                    else:
                        offset = (oy * g_h + ox * g_w) * UNIT
                    g = tl.load(upstream_of + offset, mask=counts & here, other=0.0).to(tl.float32)
                    total += tl.where(counts & (share > 0.0), share * g, 0.0)

    # A map that is not finite shows where it sends everything.
    total += tl.where((ix == 0) & (iy == 0), poison, 0.0)
    if WIDE:
        offset = (iy.to(tl.int64) * d_h + ix.to(tl.int64) * d_w) * UNIT
    else:
        offset = (iy * d_h + ix * d_w) * UNIT
    tl.store(result_of + offset, total.to(to_x.dtype.element_ty), mask=exists & here)


def gather_gradient(
    grad: Tensor, theta: Tensor, to_x: Tensor, mode: str, padding_mode: str, align_corners: bool
) -> None:
    """Write the gradient ``[B,C,H,W]`` that ``grad`` ``[B,C,h,w]`` gives to the input."""
    batch, channels, in_h, in_w = to_x.shape
    out_h, out_w = grad.shape[2:]
    last = lanes_along_channels(grad, to_x)
    unit = alignment(grad, to_x) if last else 1
    block_c = min(power_of_two(channels), 128 if last else 8)
    tile_h, tile_w = tile_for(max(16, 2048 // block_c) if last else 128, in_h, in_w)
    tiles_x = triton.cdiv(in_w, tile_w)
    tiles = tiles_x * triton.cdiv(in_h, tile_h)
    ranges = triton.cdiv(channels, block_c)
    _gather[(batch * ranges * tiles,)](
        grad,
        theta,
        to_x,
        channels // unit, in_h, in_w, out_h, out_w, tiles_x, tiles, ranges,
        *image_strides(grad, unit), *image_strides(to_x, unit),
        *theta.stride(),
        NEAREST=mode == "nearest",
        PADDING=PADDING_MODES[padding_mode],
        ALIGN=align_corners,
        POS=position_type(theta, (in_h, in_w), mode, padding_mode == "zeros"),
        TILE_H=tile_h,
        TILE_W=tile_w,
        BLOCK_C=block_c,
        LAST=last,
        UNIT=unit,
        WIDE=is_wide(grad, to_x),
        TOGETHER=2,
        num_warps=4,
    )  # fmt: skip
