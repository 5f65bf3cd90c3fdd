"""Which pixels of the image an output pixel is made of: what both walks over the output share.

Forward and the gradient of theta own the same thing, a tile of output pixels and a range of
channels, and read the same four taps. Everything about a tap but its channel is computed once per
pixel, in float64 where it decides which pixel is read; the walk over channels adds one product to
the pointers. The gradient of x owns tiles of the input in the same way.
"""

import triton
import triton.language as tl

from fastalign.kernels.sampling import pad_axis, pixel_offset, position, split_axis


@triton.jit
def own_tile(tiles_x, tiles, ranges, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    """Of this program: its image, its range of channels, first row and column of its tile.

    Tiles of one image and range are neighbours in the grid: they read the same lines of it.
    """
    program = tl.program_id(0)
    tile = program % tiles
    image = program // tiles // ranges
    range_of = program // tiles % ranges
    return image, range_of, tile // tiles_x * TILE_H, tile % tiles_x * TILE_W


@triton.jit
def tile_lanes(
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_C: tl.constexpr, LAST: tl.constexpr
):
    """Numbers of a tile's pixels and of a block's channels, which broadcast together.

    Neighbouring lanes are neighbouring channels, ``[pixels,channels]``, where those are contiguous
    (LAST), else neighbouring pixels of a row, ``[channels,pixels]``.
    """
    pixel = tl.arange(0, TILE_H * TILE_W)
    lane = tl.arange(0, BLOCK_C)
    if LAST:
        pixel = pixel[:, None]
        lane = lane[None, :]
    else:
        pixel = pixel[None, :]
        lane = lane[:, None]
    return pixel, lane


@triton.jit
def no_sums(TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_C: tl.constexpr, LAST: tl.constexpr):
    """float32 zeros for each pixel and channel of a tile, laid out as ``tile_lanes``."""
    if LAST:
        sums = tl.zeros([TILE_H * TILE_W, BLOCK_C], tl.float32)
    else:
        sums = tl.zeros([BLOCK_C, TILE_H * TILE_W], tl.float32)
    return sums


@triton.jit
def at_channels(pointer, offset, channel, stride, LAST: tl.constexpr):
    """Pointers to channels of the pixels at ``offset``; stride is that of channels, 1 with LAST."""
    if LAST:
        pointers = pointer + (offset + channel)
    else:
        pointers = pointer + (offset + channel * stride)
    return pointers


@triton.jit
def find_taps(
    ox, oy, xx, xy, x0, yx, yy, y0, in_h, in_w, out_h, out_w, x_h, x_w,
    NEAREST: tl.constexpr, PADDING: tl.constexpr, ALIGN: tl.constexpr,
    UNIT: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Where output pixels (ox, oy) sample an image; everything is shaped like ``ox``.

    Returns:
        Which of them exist; the offset of the upper left tap; which taps exist: left and right
        columns, only of pixels that exist, top and low rows; the shares of the right column and the
        low row; by what padding multiplies the derivatives of position.
    """
    at_x, slope_x = pad_axis(position(xx, xy, x0, ox, oy), in_w, PADDING, ALIGN)
    at_y, slope_y = pad_axis(position(yx, yy, y0, ox, oy), in_h, PADDING, ALIGN)
    left, right_share = split_axis(at_x, NEAREST)
    top, low_share = split_axis(at_y, NEAREST)
    visible = (ox < out_w) & (oy < out_h)
    in_left = (left >= 0) & (left < in_w) & visible
    in_top = (top >= 0) & (top < in_h)
    in_right = (left >= -1) & (left < in_w - 1) & visible
    in_low = (top >= -1) & (top < in_h - 1)
    offset = pixel_offset(top, left, x_h, x_w, UNIT, WIDE)
    return (
        visible, offset, in_left, in_right, in_top, in_low, right_share, low_share, slope_x, slope_y
    )  # fmt: skip


@triton.jit
def load_tap(pointers, mask):
    """Values in float32, 0 where the mask rules them out."""
    return tl.load(pointers, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def load_taps(pointers, below, beside, here, in_left, in_right, in_top, in_low):
    """Upper left, upper right, lower left and lower right value of channels that are ``here``."""
    v00 = load_tap(pointers, here & in_top & in_left)
    v01 = load_tap(pointers + beside, here & in_top & in_right)
    v10 = load_tap(pointers + below, here & in_low & in_left)
    v11 = load_tap(pointers + (below + beside), here & in_low & in_right)
    return v00, v01, v10, v11
