"""Scans: output pixels found row by row, for what boxes cannot serve.

Along an output row the position is linear, so the output pixels that reach a tile of the input, or
lie on one side of its frame, are one interval. A scan visits them one after the other, with the
whole tile and its channels; it is right for every map.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastalign.kernels.sampling import pixel_offset, reflect, share_of

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
def scan_rows(
    total, upstream_of, here, ix0, iy0, ix, iy,
    xx, xy, x0, yx, yy, y0, regular,
    in_h, in_w, out_h, out_w, g_h, g_w,
    NEAREST: tl.constexpr, PADDING: tl.constexpr, ALIGN: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, UNIT: tl.constexpr, WIDE: tl.constexpr,
    TOGETHER: tl.constexpr,
):  # fmt: skip
    """total and what scans give: of the outside of the frame, or of everything.

    TOGETHER output pixels of a row are loaded at a time.
    """
    last_ox = (out_w - 1).to(tl.float64)
    # Scans: 0 to 3 of what lies left, right, above and below the frame, 4 of everything.
    first_scan = tl.where(regular, 0, 4)
    if PADDING == 1:
        scans = tl.where(regular, 4, 5)
    else:
        scans = tl.where(regular, 0, 5)
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
                    share = share_of(at_x, ix, NEAREST) * share_of(at_y, iy, NEAREST)
                    offset = pixel_offset(oy, ox, g_h, g_w, UNIT, WIDE)
                    g = tl.load(upstream_of + offset, mask=counts & here, other=0.0).to(tl.float32)
                    total += tl.where(counts & (share > 0.0), share * g, 0.0)
    return total
