"""Mahalanobis distance from a low-rank form per location, and its gradients: Triton kernels.

A program owns a location and up to four images. It walks over blocks of channels twice: first the
products of the rows V with the deviations, then what these leave of the deviations: w = d - V^T (V
d). Where all channels are one block, V stays in registers for the second walk; else it comes from
L2.

Gradients: the distance kernel runs again and saves w, V d and the factor that makes the gradient g
of w. A second kernel multiplies V with g, and programs of a third own a location and a block of
channels: gradients of x, mean and V. Every element has one writer: no atomics, the same call gives
the same bits.

Bytes: V once per four images, x and mean once, the distances once. For backward w, V d and V g are
written and read as well, V twice more.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastalign.kernels.mahalanobis_distance import beside, load_deviations, scaled
from fastalign.ops.triton_plans import forced, refuse

# Numbers that a program holds of images x rows x channels: 64 registers of each lane of four warps.
# An estimate, not timed. The way to time it:
#   python benchmarks/ops.py --device cuda --backends triton --only mahalanobis
#       --plan "mahalanobis.triton: images, warps"
_NUMBERS = 8192
_MOST_IMAGES = 4
_MOST_COLUMNS = 256
_WARPS = 4


@triton.jit
def _load_rows(v, row, column, rank, channels, v_r, v_c):
    """Rows of V at one location: [rows,columns], 0 beyond either count."""
    at = v + row.to(tl.int64)[:, None] * v_r + column.to(tl.int64)[None, :] * v_c
    inside = (row < rank)[:, None] & (column < channels)[None, :]
    return tl.load(at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _taken(block, products):
    """V^T times the products: [images,columns]."""
    return tl.sum(block[None, :, :] * products[:, :, None], axis=1)


@triton.jit(do_not_specialize=[
    "images", "channels", "rank", "width", "locations", "image_tiles",
    "x_b", "x_c", "x_h", "x_w", "m_c", "m_h", "m_w", "v_l", "v_r", "v_c", "g_b", "g_h", "g_w",
])  # fmt: skip
def _distance(
    x,  # [B,C,H,W]
    mean,  # [C,H,W]
    whitener,  # [H*W,R,C]
    out,  # [B,H*W]: the distance; for backward what w is to be multiplied with
    grad,  # [B,H,W]; backward only
    white,  # [H*W,B,C]; backward only
    saved,  # [H*W,B,R]: V d; backward only
    coarse, scale,  # see load_deviations and scaled
    images, channels, rank, width, locations, image_tiles,
    x_b, x_c, x_h, x_w, m_c, m_h, m_w, v_l, v_r, v_c, g_b, g_h, g_w,
    SQUARED: tl.constexpr, SAVE: tl.constexpr, ONE: tl.constexpr,
    COARSE: tl.constexpr, SCALED: tl.constexpr,
    IMAGES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    place = program // image_tiles
    location = place.to(tl.int64)
    image = program % image_tiles * IMAGES + tl.arange(0, IMAGES)
    present = image < images
    at_row = (place // width).to(tl.int64)
    at_column = (place % width).to(tl.int64)
    row = tl.arange(0, ROWS)
    lane = tl.arange(0, COLUMNS)
    v = whitener + location * v_l
    of_image = (location * images + image.to(tl.int64))[:, None]
    square = tl.zeros([IMAGES], tl.float32)
    if ONE:
        deviation = load_deviations(
            x, mean, coarse, image, lane, images, channels, at_row, at_column,
            x_b, x_c, x_h, x_w, m_c, m_h, m_w, COARSE,
        )  # fmt: skip
        block = _load_rows(v, row, lane, rank, channels, v_r, v_c)
        products = tl.sum(block[None, :, :] * deviation[:, None, :], axis=2)
        left = deviation - _taken(block, products)
        square += tl.sum(left * left, axis=1)
        if SAVE:
            inside = present[:, None] & (lane < channels)[None, :]
            tl.store(white + of_image * channels + lane[None, :], left, mask=inside)
    else:
        products = tl.zeros([IMAGES, ROWS], tl.float32)
        for first in range(0, channels, COLUMNS):
            deviation = load_deviations(
                x, mean, coarse, image, first + lane, images, channels, at_row, at_column,
                x_b, x_c, x_h, x_w, m_c, m_h, m_w, COARSE,
            )  # fmt: skip
            block = _load_rows(v, row, first + lane, rank, channels, v_r, v_c)
            products += tl.sum(block[None, :, :] * deviation[:, None, :], axis=2)
        for first in range(0, channels, COLUMNS):
            column = first + lane
            deviation = load_deviations(
                x, mean, coarse, image, column, images, channels, at_row, at_column,
                x_b, x_c, x_h, x_w, m_c, m_h, m_w, COARSE,
            )  # fmt: skip
            block = _load_rows(v, row, column, rank, channels, v_r, v_c)
            left = deviation - _taken(block, products)
            square += tl.sum(left * left, axis=1)
            if SAVE:
                inside = present[:, None] & (column < channels)[None, :]
                tl.store(white + of_image * channels + column[None, :], left, mask=inside)
    value = square
    if not SQUARED:
        value = tl.sqrt_rn(square)
    if SAVE:
        inside = present[:, None] & (row < rank)[None, :]
        tl.store(saved + of_image * rank + row[None, :], products, mask=inside)
        at = grad + image.to(tl.int64) * g_b + at_row * g_h + at_column * g_w
        upstream = tl.load(at, mask=present, other=0.0)
        if SQUARED:
            value = 2.0 * upstream
        else:
            value = tl.where(value == 0.0, 0.0, upstream / tl.where(value == 0.0, 1.0, value))
    value = scaled(value, scale, at_row, at_column, SCALED)
    tl.store(out + image.to(tl.int64) * locations + location, value, mask=present)


@triton.jit(do_not_specialize=[
    "images", "channels", "rank", "locations", "image_tiles", "v_l", "v_r", "v_c",
])  # fmt: skip
def _pull(
    whitener,  # [H*W,R,C]
    white,  # [H*W,B,C]
    scale,  # [B,H*W]
    pulled,  # [H*W,B,R]: V g
    images, channels, rank, locations, image_tiles, v_l, v_r, v_c,
    IMAGES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    location = (program // image_tiles).to(tl.int64)
    image = program % image_tiles * IMAGES + tl.arange(0, IMAGES)
    present = image < images
    row = tl.arange(0, ROWS)
    v = whitener + location * v_l
    of_image = (location * images + image.to(tl.int64))[:, None]
    factor = tl.load(scale + image.to(tl.int64) * locations + location, mask=present, other=0.0)
    products = tl.zeros([IMAGES, ROWS], tl.float32)
    for first in range(0, channels, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        inside = present[:, None] & (column < channels)[None, :]
        own = tl.load(white + of_image * channels + column[None, :], mask=inside, other=0.0)
        block = _load_rows(v, row, column, rank, channels, v_r, v_c)
        products += tl.sum(block[None, :, :] * (own * factor[:, None])[:, None, :], axis=2)
    inside = present[:, None] & (row < rank)[None, :]
    tl.store(pulled + of_image * rank + row[None, :], products, mask=inside)


@triton.jit(do_not_specialize=[
    "images", "channels", "rank", "width", "locations", "column_blocks",
    "x_b", "x_c", "x_h", "x_w", "m_c", "m_h", "m_w", "v_l", "v_r", "v_c",
    "d_b", "d_c", "d_h", "d_w",
])  # fmt: skip
def _gradients(
    x,  # [B,C,H,W]
    mean,  # [C,H,W]
    whitener,  # [H*W,R,C]
    white,  # [H*W,B,C]
    scale,  # [B,H*W]
    saved,  # [H*W,B,R]
    pulled,  # [H*W,B,R]
    to_x,  # [B,C,H,W]
    to_mean,  # [C,H,W]
    to_whitener,  # [H*W,R,C]
    images, channels, rank, width, locations, column_blocks,
    x_b, x_c, x_h, x_w, m_c, m_h, m_w, v_l, v_r, v_c, d_b, d_c, d_h, d_w,
    NEED_X: tl.constexpr, NEED_MEAN: tl.constexpr, NEED_WHITENER: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    place = program // column_blocks
    location = place.to(tl.int64)
    at_row = (place // width).to(tl.int64)
    at_column = (place % width).to(tl.int64)
    row = tl.arange(0, ROWS)
    column = program % column_blocks * COLUMNS + tl.arange(0, COLUMNS)
    here = column < channels
    along = column.to(tl.int64)
    block = _load_rows(whitener + location * v_l, row, column, rank, channels, v_r, v_c)
    centre = tl.load(mean + at_row * m_h + at_column * m_w + along * m_c, mask=here, other=0.0)
    mean_sum = tl.zeros([COLUMNS], tl.float32)
    outer = tl.zeros([ROWS, COLUMNS], tl.float32)
    of_image = location * images
    of_x = x + at_row * x_h + at_column * x_w + along * x_c
    to = to_x + at_row * d_h + at_column * d_w + along * d_c
    for image in range(0, images):
        factor = tl.load(scale + location + tl.cast(image, tl.int64) * locations)
        own = tl.load(white + of_image * channels + column, mask=here, other=0.0) * factor
        back = tl.load(pulled + of_image * rank + row, mask=row < rank, other=0.0)
        if NEED_X or NEED_MEAN:
            gradient = own - tl.sum(block * back[:, None], axis=0)
            mean_sum += gradient
            if NEED_X:
                tl.store(to, gradient.to(to_x.dtype.element_ty), mask=here)
        if NEED_WHITENER:
            products = tl.load(saved + of_image * rank + row, mask=row < rank, other=0.0)
            deviation = tl.load(of_x, mask=here, other=0.0).to(tl.float32) - centre
            outer += products[:, None] * own[None, :] + back[:, None] * deviation[None, :]
        of_image += 1
        of_x += x_b
        to += d_b
    if NEED_MEAN:
        tl.store(to_mean + along * locations + location, -mean_sum, mask=here)
    if NEED_WHITENER:
        inside = (row < rank)[:, None] & here[None, :]
        at = (
            to_whitener + (location * rank + row.to(tl.int64))[:, None] * channels + column[None, :]
        )
        tl.store(at, (-outer).to(to_whitener.dtype.element_ty), mask=inside)


def _blocks(kernel: str, images: int, rank: int, channels: int) -> dict[str, int]:
    """Images, rows and columns of a block: columns so many that a block fits the registers."""
    choice = forced(kernel)
    if "rows" in choice:
        refuse(kernel, "rows", "the low-rank form takes all rows at once")
    together = choice.get("images", min(triton.next_power_of_2(images), _MOST_IMAGES))
    rows = triton.next_power_of_2(max(rank, 1))
    columns = min(triton.next_power_of_2(channels), _MOST_COLUMNS)
    columns = max(1, min(columns, _NUMBERS // (rows * together)))
    return {"IMAGES": together, "ROWS": rows, "COLUMNS": columns}


def low_rank_distance(
    kernel: str,
    out: Tensor,
    grad: Tensor | None,
    white: Tensor | None,
    saved: Tensor | None,
    x: Tensor,
    mean: Tensor,
    whitener: Tensor,
    squared: bool,
    coarse: Tensor | None = None,
    scale: Tensor | None = None,
) -> None:
    """Fills ``out`` ``[B,H,W]``; for backward ``white`` and ``saved`` too, from ``grad``."""
    batch, channels, height, width = x.shape
    rank = whitener.shape[1]
    blocks = _blocks(kernel, batch, rank, channels)
    image_tiles = triton.cdiv(batch, blocks["IMAGES"])
    more, factors, given = beside(x, coarse, scale)
    _distance[(height * width * image_tiles,)](
        x,
        mean,
        whitener,
        out,
        out if grad is None else grad,
        out if white is None else white,
        out if saved is None else saved,
        more,
        factors,
        batch, channels, rank, width, height * width, image_tiles,
        *x.stride(), *mean.stride(), *whitener.stride(),
        *((0, 0, 0) if grad is None else grad.stride()),
        SQUARED=squared,
        SAVE=white is not None,
        ONE=channels <= blocks["COLUMNS"],
        **given,
        **blocks,
        num_warps=forced(kernel).get("warps", _WARPS),
    )  # fmt: skip


def low_rank_gradients(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    whitener: Tensor,
    squared: bool,
    to_x: Tensor,
    to_mean: Tensor,
    to_whitener: Tensor,
    needs: dict[str, bool],
) -> None:
    """Fills the gradients that are needed."""
    batch, channels, height, width = x.shape
    rank, locations = whitener.shape[1], height * width
    name = "mahalanobis_backward"
    blocks, warps = _blocks(name, batch, rank, channels), forced(name).get("warps", _WARPS)
    image_tiles = triton.cdiv(batch, blocks["IMAGES"])
    with torch.cuda.device_of(x):
        scale = x.new_empty((batch, locations), dtype=torch.float32)
        white = x.new_empty((locations, batch, channels), dtype=torch.float32)
        saved, pulled = x.new_empty((2, locations, batch, rank), dtype=torch.float32)
        low_rank_distance(name, scale, grad, white, saved, x, mean, whitener, squared)
        _pull[(locations * image_tiles,)](
            whitener,
            white,
            scale,
            pulled,
            batch, channels, rank, locations, image_tiles, *whitener.stride(),
            **blocks,
            num_warps=warps,
        )  # fmt: skip
        columns = _blocks(name, 1, rank, channels)["COLUMNS"]
        column_blocks = triton.cdiv(channels, columns)
        _gradients[(locations * column_blocks,)](
            x, mean, whitener, white, scale, saved, pulled, to_x, to_mean, to_whitener,
            batch, channels, rank, width, locations, column_blocks,
            *x.stride(), *mean.stride(), *whitener.stride(),
            *(to_x.stride() if needs["NEED_X"] else (0, 0, 0, 0)),
            **needs,
            ROWS=blocks["ROWS"],
            COLUMNS=columns,
            num_warps=warps,
        )  # fmt: skip
