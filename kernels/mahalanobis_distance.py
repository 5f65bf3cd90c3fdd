"""The distance kernel of mahalanobis, forward and for backward, and how its launches are cut up.

One warp owns a location and up to eight images: it holds their deviations from the mean with lanes
along channels, and streams the packed triangle in blocks of rows, each row one contiguous stretch
of memory. A row meets every image while it is in registers; a shuffle tree ends each product. Sums
are plain float32 multiply-adds: tf32 would lose the distance.

Bytes: the whitener once per eight images (tiles of one location lie side by side in the grid, so
that the second reads it from L2), x and mean once from memory, the distances once to it. In NCHW
neighbouring channels of a location lie H*W elements apart: a 32-byte sector serves eight locations,
whose programs run side by side and find it in L2. That traffic is eight times x and mean, next to a
whitener of (C + 1) / 2 times the size of the mean. For backward the whitened deviations, B C H W
float32, are written as well.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from fastalign.ops.triton_plans import forced

# Measured of the plans that these lead to, on one H200 (benchmarks/results/gpu/
# nvidia-h200-counters.md): 100 channels on 64 x 64 take 63.2 us for one image and 145 for eight. No
# number was timed alone, so all are estimates, that of rows from the 4096 numbers of a block: 128
# registers of each of a warp's lanes. The way to time them:
#   python benchmarks/ops.py --device cuda --backends triton --only mahalanobis
#       --plan "mahalanobis.triton: images, rows, warps"

# Columns of the whitener and images that a program holds at once.
_MOST_COLUMNS = 256
_MOST_IMAGES = 8


@triton.jit
def _between(pixel, size, coarse):
    """Between which pixels of a coarser axis a pixel lies, and how near to the second one."""
    ratio = tl.cast(coarse, tl.float64) / tl.cast(size, tl.float64)
    position = tl.maximum((pixel.to(tl.float64) + 0.5) * ratio - 0.5, 0.0)
    whole = position.to(tl.int64)
    last = tl.cast(coarse, tl.int64) - 1
    low = tl.minimum(whole, last)
    return low, tl.minimum(low + 1, last), (position - whole.to(tl.float64)).to(tl.float32)


@triton.jit
def _upsampled(coarse, image, along, row, column, inside):
    """The coarser map at one location: [images,channels]. coarse: its pointer and strides, the
    height and width of x, and its own."""
    top, bottom, low = _between(row, coarse[5], coarse[7])
    left, last, right = _between(column, coarse[6], coarse[8])
    base = coarse[0] + image.to(tl.int64)[:, None] * coarse[1] + along[None, :] * coarse[2]
    above = base + top * coarse[3]
    below = base + bottom * coarse[3]
    a = tl.load(above + left * coarse[4], mask=inside, other=0.0).to(tl.float32)
    b = tl.load(above + last * coarse[4], mask=inside, other=0.0).to(tl.float32)
    c = tl.load(below + left * coarse[4], mask=inside, other=0.0).to(tl.float32)
    d = tl.load(below + last * coarse[4], mask=inside, other=0.0).to(tl.float32)
    first = (1.0 - right) * a + right * b
    return (1.0 - low) * first + low * ((1.0 - right) * c + right * d)


@triton.jit
def scaled(value, scale, row, column, SCALED: tl.constexpr):
    """Values of one location times its factor, 0 where that is; scale: its pointer and strides."""
    if SCALED:
        factor = tl.load(scale[0] + row * scale[1] + column * scale[2])
        value = tl.where(factor == 0.0, 0.0, value * factor)
    return value


@triton.jit
def load_deviations(
    x, mean, coarse, image, channel, images, channels, row, column,
    x_b, x_c, x_h, x_w, m_c, m_h, m_w, COARSE: tl.constexpr,
):  # fmt: skip
    """x - mean at one location: [images,channels], 0 beyond either count; with what a coarser map
    adds to x."""
    here = channel < channels
    along = channel.to(tl.int64)
    base = x + row * x_h + column * x_w
    inside = (image < images)[:, None] & here[None, :]
    value = tl.load(
        base + image.to(tl.int64)[:, None] * x_b + along[None, :] * x_c, mask=inside, other=0.0
    ).to(tl.float32)
    if COARSE:
        value += _upsampled(coarse, image, along, row, column, inside)
    centre = tl.load(mean + row * m_h + column * m_w + along * m_c, mask=here, other=0.0)
    return tl.where((image < images)[:, None], value - centre[None, :], 0.0)


@triton.jit
def triangle(row, column, channels):
    """Places [rows,columns] in a packed lower triangle, and which of them it has."""
    offset = (row * (row + 1) // 2)[:, None] + column[None, :]
    return offset, (column[None, :] <= row[:, None]) & (row < channels)[:, None]


@triton.jit
def factor_block(factor, row, column, channels, w_t, WIDE: tl.constexpr):
    """Entries [rows,columns] of a packed lower triangle, 0 above it."""
    offset, inside = triangle(row, column, channels)
    if WIDE:
        offset = offset.to(tl.int64) * w_t
    else:
        offset = offset * w_t
    return tl.load(factor + offset, mask=inside, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=[
    "images", "channels", "width", "locations", "image_tiles",
    "x_b", "x_c", "x_h", "x_w", "m_c", "m_h", "m_w", "w_l", "w_t", "g_b", "g_h", "g_w",
])  # fmt: skip
def _distance(
    x,  # [B,C,H,W]
    mean,  # [C,H,W]
    whitener,  # [H*W,C(C+1)/2]
    out,  # [B,H,W], the distances; or factors of the gradient [B,H*W] with SAVE
    grad,  # [B,H,W], read with SAVE
    white,  # [H*W,B,C] float32, written with SAVE
    coarse, scale,  # see load_deviations and scaled
    images, channels, width, locations, image_tiles,
    x_b, x_c, x_h, x_w, m_c, m_h, m_w, w_l, w_t, g_b, g_h, g_w,
    SQUARED: tl.constexpr, SAVE: tl.constexpr, WIDE: tl.constexpr, ONE: tl.constexpr,
    COARSE: tl.constexpr, SCALED: tl.constexpr,
    IMAGES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    place = program // image_tiles
    location = place.to(tl.int64)
    image = program % image_tiles * IMAGES + tl.arange(0, IMAGES)
    at_row = (place // width).to(tl.int64)
    at_column = (place % width).to(tl.int64)
    factor = whitener + location * w_l
    lane = tl.arange(0, COLUMNS)
    square = tl.zeros([IMAGES], tl.float32)
    if ONE:  # all channels in one block
        deviation = load_deviations(
            x, mean, coarse, image, lane, images, channels, at_row, at_column,
            x_b, x_c, x_h, x_w, m_c, m_h, m_w, COARSE,
        )  # fmt: skip
    for first in range(0, channels, ROWS):
        row = first + tl.arange(0, ROWS)
        if ONE:
            block = factor_block(factor, row, lane, channels, w_t, WIDE)
            whitened = tl.sum(block[None, :, :] * deviation[:, None, :], axis=2)
        else:
            whitened = tl.zeros([IMAGES, ROWS], tl.float32)
            for column in range(0, tl.minimum(first + ROWS, channels), COLUMNS):
                part = load_deviations(
                    x, mean, coarse, image, column + lane, images, channels, at_row, at_column,
                    x_b, x_c, x_h, x_w, m_c, m_h, m_w, COARSE,
                )  # fmt: skip
                block = factor_block(factor, row, column + lane, channels, w_t, WIDE)
                whitened += tl.sum(block[None, :, :] * part[:, None, :], axis=2)
        square += tl.sum(whitened * whitened, axis=1)
        if SAVE:
            to = white + (location * images + image.to(tl.int64))[:, None] * channels + row[None, :]
            inside = (image < images)[:, None] & (row < channels)[None, :]
            tl.store(to, whitened, mask=inside)
    if SQUARED:
        value = square
    else:
        value = tl.sqrt_rn(square)
    if SAVE:
        at = grad + image.to(tl.int64) * g_b + at_row * g_h + at_column * g_w
        upstream = tl.load(at, mask=image < images, other=0.0)
        if SQUARED:
            value = 2.0 * upstream
        else:
            value = tl.where(value == 0.0, 0.0, upstream / tl.where(value == 0.0, 1.0, value))
    value = scaled(value, scale, at_row, at_column, SCALED)
    tl.store(out + image.to(tl.int64) * locations + location, value, mask=image < images)


def blocks_of(kernel: str, images: int, channels: int) -> dict[str, int]:
    """Images, rows and columns of a block: rows so many that a block fits the registers."""
    choice = forced(kernel)
    together = choice.get("images", min(triton.next_power_of_2(images), _MOST_IMAGES))
    columns = min(triton.next_power_of_2(channels), _MOST_COLUMNS)
    rows = choice.get("rows", max(2, min(16, 4096 // (columns * together))))
    return {"IMAGES": together, "ROWS": rows, "COLUMNS": columns}


def warps_of(kernel: str) -> int:
    return forced(kernel).get("warps", 1)


def is_wide(whitener: Tensor) -> bool:
    return whitener.shape[1] * abs(whitener.stride(1)) >= 2**31


def beside(x: Tensor, coarse: Tensor | None, scale: Tensor | None) -> tuple[Any, ...]:
    """A coarser map and factors as the kernels take them, and whether there are any."""
    more = x if coarse is None else coarse
    factors = (x, 0, 0) if scale is None else (scale, *scale.stride())
    given = {"COARSE": coarse is not None, "SCALED": scale is not None}
    return (more, *more.stride(), *x.shape[2:], *more.shape[2:]), factors, given


def run_distance(
    kernel: str,
    out: Tensor,
    grad: Tensor | None,
    white: Tensor | None,
    x: Tensor,
    mean: Tensor,
    whitener: Tensor,
    squared: bool,
    coarse: Tensor | None = None,
    scale: Tensor | None = None,
) -> None:
    batch, channels, height, width = x.shape
    blocks = blocks_of(kernel, batch, channels)
    image_tiles = triton.cdiv(batch, blocks["IMAGES"])
    more, factors, given = beside(x, coarse, scale)
    _distance[(height * width * image_tiles,)](
        x,
        mean,
        whitener,
        out,
        out if grad is None else grad,
        out if white is None else white,
        more,
        factors,
        batch, channels, width, height * width, image_tiles,
        *x.stride(), *mean.stride(), *whitener.stride(),
        *((0, 0, 0) if grad is None else grad.stride()),
        SQUARED=squared,
        SAVE=white is not None,
        WIDE=is_wide(whitener),
        ONE=channels <= blocks["COLUMNS"],
        **given,
        **blocks,
        num_warps=warps_of(kernel),
    )  # fmt: skip
