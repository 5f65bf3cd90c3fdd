"""Geometry of affine sampling on the device: what csrc/common/geometry.h is to the native kernels.

A map is six numbers in pixels, x = xx ox + xy oy + x0 and y = yx ox + yy oy + y0, computed by every
program from theta in float64: theta stays where it is, and nothing waits for it.

Positions are float64 as well. They are computed once per pixel and used for all its channels; so
maps that shrink or turn images of any size stay exact, and forward and backward, in whatever
program, agree to the last bit on which pixel a nearest sample or a fold belongs to.

A map that is not finite is replaced by one that sends everything to pixel (0, 0), and a NaN is
added to the weights: it shows in the result, and no index can leave the image.
"""

import triton
import triton.language as tl

# Padding in the kernels: 0 zeros, 1 border, 2 reflection.


@triton.jit
def _reciprocal(count):
    """1 / count in float64 for an integer: Newton steps instead of a division's slow path."""
    n = count.to(tl.float64)
    guess = (1.0 / count.to(tl.float32)).to(tl.float64)
    guess = tl.fma(guess, tl.fma(-n, guess, 1.0), guess)
    return tl.fma(guess, tl.fma(-n, guess, 1.0), guess)


@triton.jit
def _ratio(count, other, reciprocal):
    """count / other in float64, exactly 1 for equal ones; reciprocal is that of other."""
    n = count.to(tl.float64)
    ratio = n * reciprocal
    ratio = tl.fma(tl.fma(-ratio, other.to(tl.float64), n), reciprocal, ratio)
    return tl.where(count == other, 1.0, ratio)


@triton.jit
def _affine_row(t0, t1, t2, across, down, one_across, one_down, source, ALIGN: tl.constexpr):
    """One row of the map; grouped so that the identity on equal sizes has offset 0 exactly.

    across and down are the intervals of the output's axes, one_across and one_down 1 / each.
    """
    if ALIGN:
        n = (source - 1).to(tl.float64)
        # An output axis of one pixel, of no interval, sits at coordinate 0.
        t0 = tl.where(across > 0, t0, 0.0)
        t1 = tl.where(down > 0, t1, 0.0)
        step_x = t0 * _ratio(source - 1, across, one_across)
        step_y = t1 * _ratio(source - 1, down, one_down)
        offset = ((1.0 - t0 - t1) + t2) * (0.5 * n)
    else:
        n = source.to(tl.float64)
        step_x = t0 * _ratio(source, across, one_across)
        step_y = t1 * _ratio(source, down, one_down)
        offset = 0.5 * (((step_x - t0 * n) + (n - 1.0)) + ((step_y - t1 * n) + t2 * n))
    return step_x, step_y, offset


@triton.jit
def load_map(
    theta, image, t_b, t_r, t_c, in_h, in_w, out_h, out_w, ALIGN: tl.constexpr
):  # fmt: skip
    """The map of an image, and 0 where it is finite, else NaN."""
    if ALIGN:
        across = out_w - 1
        down = out_h - 1
    else:
        across = out_w
        down = out_h
    one_across = _reciprocal(tl.maximum(across, 1))
    one_down = _reciprocal(tl.maximum(down, 1))
    row = theta + image.to(tl.int64) * t_b
    t0 = tl.load(row).to(tl.float64)
    t1 = tl.load(row + t_c).to(tl.float64)
    t2 = tl.load(row + 2 * t_c).to(tl.float64)
    xx, xy, x0 = _affine_row(t0, t1, t2, across, down, one_across, one_down, in_w, ALIGN)
    row += t_r
    t3 = tl.load(row).to(tl.float64)
    t4 = tl.load(row + t_c).to(tl.float64)
    t5 = tl.load(row + 2 * t_c).to(tl.float64)
    yx, yy, y0 = _affine_row(t3, t4, t5, across, down, one_across, one_down, in_h, ALIGN)
    total = ((xx + xy) + x0) + ((yx + yy) + y0)
    poison = total - total
    finite = poison == 0.0
    xx = tl.where(finite, xx, 0.0)
    xy = tl.where(finite, xy, 0.0)
    x0 = tl.where(finite, x0, 0.0)
    yx = tl.where(finite, yx, 0.0)
    yy = tl.where(finite, yy, 0.0)
    y0 = tl.where(finite, y0, 0.0)
    return xx, xy, x0, yx, yy, y0, poison.to(tl.float32)


@triton.jit
def position(step_x, step_y, offset, ox, oy):
    """One coordinate of the source position of output pixel (ox, oy)."""
    return tl.fma(ox.to(tl.float64), step_x, tl.fma(oy.to(tl.float64), step_y, offset))


@triton.jit
def mirror_span(size, ALIGN: tl.constexpr):
    """Distance between the mirrors of an axis, the first of which stands at 0 or at -0.5."""
    if ALIGN:
        span = tl.maximum(size - 1, 1)
    else:
        span = size
    return span.to(tl.float64)


@triton.jit
def reflect(position, size, ALIGN: tl.constexpr):
    """Position mirrored into the image, how often, and whether that is odd; all in float64."""
    low: tl.constexpr = 0.0 if ALIGN else -0.5
    span = mirror_span(size, ALIGN)
    distance = position - low
    flips = tl.floor(distance * (1.0 / span))
    rest = tl.minimum(tl.maximum(distance - flips * span, 0.0), span)
    odd = flips - 2.0 * tl.floor(flips * 0.5) != 0.0
    return tl.where(odd, span - rest, rest) + low, flips, odd


@triton.jit
def pad_axis(at, size, PADDING: tl.constexpr, ALIGN: tl.constexpr):
    """Position after padding, and the factor of its derivative."""
    last = (size - 1).to(tl.float64)
    slope = tl.full(at.shape, 1.0, tl.float32)
    if PADDING == 0:
        # Two pixels outside nothing is sampled: a clamp there keeps the integers in range.
        padded = tl.minimum(tl.maximum(at, -2.0), last + 2.0)
    else:
        if PADDING == 2:
            at, _, odd = reflect(at, size, ALIGN)
            slope = tl.where(odd, -1.0, 1.0)
        slope = tl.where((at > 0.0) & (at < last), slope, 0.0)
        padded = tl.minimum(tl.maximum(at, 0.0), last)
    return padded, slope


@triton.jit
def split_axis(padded, NEAREST: tl.constexpr):
    """Pixel at or before a padded position, and the share of the next; or the nearest pixel."""
    whole = tl.floor(padded)
    share = padded - whole
    pixel = whole.to(tl.int32)
    if NEAREST:  # halves go to the even pixel
        pixel += ((share > 0.5) | ((share == 0.5) & (pixel % 2 != 0))).to(tl.int32)
    return pixel, share.to(tl.float32)


@triton.jit
def share_of(at, pixel, NEAREST: tl.constexpr):
    """How much of a padded position belongs to a pixel: 0 beyond its neighbours."""
    distance = tl.abs(at - pixel.to(tl.float64))
    if NEAREST:  # halves go to the even pixel
        share = ((distance < 0.5) | ((distance == 0.5) & (pixel % 2 == 0))).to(tl.float32)
    else:
        share = tl.maximum(1.0 - distance.to(tl.float32), 0.0)
    return share


@triton.jit
def pixel_offset(row, column, row_step, column_step, UNIT: tl.constexpr, WIDE: tl.constexpr):
    """Offset of a pixel of an image whose strides are given in UNITs; in 64 bits where WIDE."""
    if WIDE:
        row = tl.cast(row, tl.int64)
        column = tl.cast(column, tl.int64)
    return (row * row_step + column * column_step) * UNIT
