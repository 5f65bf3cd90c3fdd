"""Boxes: for each input pixel, the output pixels that may sample it, and the walk over them.

The output pixels whose position lies within one pixel of input pixel (ix, iy) fill the inverse
image of a square. Its bounding box has the same size for all pixels of an image, so the lanes of a
tile walk over their boxes in step: each candidate's position is computed as forward does, and its
share of the pixel multiplies its gradient. A box that is too large by rounding costs time only.

Reflection makes the plane a tiling of mirrored copies of the image: the boxes are walked for each
copy that the output reaches, counting what was folded that many times.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastalign.kernels.sampling import (
    mirror_span,
    pad_axis,
    pixel_offset,
    reflect,
    share_of,
)


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
    low: tl.constexpr = 0.0 if ALIGN else -0.5
    span = mirror_span(size, ALIGN)
    odd = copy - 2.0 * tl.floor(copy * 0.5) != 0.0
    return tl.where(odd, (copy + 1.0) * span + 2.0 * low - at, at + copy * span)


@triton.jit
def plan_boxes(
    xx, xy, x0, yx, yy, y0, in_h, in_w, out_h, out_w,
    NEAREST: tl.constexpr, PADDING: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """The inverse map, half the sides of a box, its rows and columns, the copies of the image.

    No copies where boxes are a bad plan: they would cover much of the output for every pixel.
    """
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
    return (
        ux, uy, vx, vy, half_x, half_y, n_rows, n_columns, copy_x, copy_y, n_across, n_copies
    )  # fmt: skip


@triton.jit
def walk_boxes(
    total, upstream_of, here, ix, iy, exists,
    xx, xy, x0, yx, yy, y0,
    ux, uy, vx, vy, half_x, half_y, n_rows, n_columns, copy_x, copy_y, n_across, n_copies,
    in_h, in_w, out_h, out_w, g_h, g_w,
    NEAREST: tl.constexpr, PADDING: tl.constexpr, ALIGN: tl.constexpr,
    UNIT: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """total and what the boxes of a tile's pixels give; with border only from inside the frame."""
    last_ox = (out_w - 1).to(tl.float64)
    last_oy = (out_h - 1).to(tl.float64)
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
            from_row = oy.to(tl.float64)
            row_x = tl.fma(from_row, xy, x0)
            row_y = tl.fma(from_row, yy, y0)
            for column in range(0, n_columns):
                ox = first_ox + column
                from_column = ox.to(tl.float64)
                at_x = tl.fma(from_column, xx, row_x)
                at_y = tl.fma(from_column, yx, row_y)
                counts = exists
                if PADDING == 1:
                    inside_x = (at_x >= 0.0) & (at_x <= (in_w - 1).to(tl.float64))
                    inside_y = (at_y >= 0.0) & (at_y <= (in_h - 1).to(tl.float64))
                    counts = counts & inside_x & inside_y
                if PADDING == 2:
                    _, folded_x, _ = reflect(at_x, in_w, ALIGN)
                    _, folded_y, _ = reflect(at_y, in_h, ALIGN)
                    counts = counts & (folded_x == fold_x) & (folded_y == fold_y)
                    at_x, _ = pad_axis(at_x, in_w, PADDING, ALIGN)
                    at_y, _ = pad_axis(at_y, in_h, PADDING, ALIGN)
                share = share_of(at_x, ix, NEAREST) * share_of(at_y, iy, NEAREST)
                counts = counts & (share > 0.0)
                offset = pixel_offset(oy, ox, g_h, g_w, UNIT, WIDE)
                g = tl.load(upstream_of + offset, mask=counts & here, other=0.0).to(tl.float32)
                total += tl.where(counts, share, 0.0) * g
    return total
