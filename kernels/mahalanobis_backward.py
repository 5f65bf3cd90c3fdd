"""Gradients of mahalanobis to x, mean and the whitener.

The distance kernel runs again and saves the whitened deviations and the factor of their gradient;
then one kernel serves x and mean, which reads the whitener by columns, and one the whitener. Each
owns what it writes, one writer per element: no atomics, the same call gives the same bits.

Bytes beside those of the distance: for x and mean the whitener once per eight images and the saved
deviations once per block of columns, the gradients once; for the whitener x and the saved
deviations once per block of rows, and its gradient once, the largest of all.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastalign.kernels.mahalanobis_distance import (
    blocks_of,
    factor_block,
    is_wide,
    run_distance,
    triangle,
    warps_of,
)
from fastalign.kernels.mahalanobis_low_rank import low_rank_gradients
from fastalign.ops.layout import empty_maps, no_gradient


@triton.jit(do_not_specialize=[
    "images", "channels", "width", "locations", "column_blocks",
    "d_b", "d_c", "d_h", "d_w", "w_l", "w_t",
])  # fmt: skip
def _input_gradient(
    whitener,  # [H*W,C(C+1)/2]
    white,  # [H*W,B,C]
    scale,  # [B,H*W]
    to_x,  # [B,C,H,W]
    to_mean,  # [C,H,W]
    images, channels, width, locations, column_blocks, d_b, d_c, d_h, d_w, w_l, w_t,
    NEED_X: tl.constexpr, NEED_MEAN: tl.constexpr, WIDE: tl.constexpr,
    IMAGES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    place = program // column_blocks
    location = place.to(tl.int64)
    begin = program % column_blocks * COLUMNS
    at_row = (place // width).to(tl.int64)
    at_column = (place % width).to(tl.int64)
    factor = whitener + location * w_l
    column = begin + tl.arange(0, COLUMNS)
    here = column < channels
    mean_sum = tl.zeros([COLUMNS], tl.float32)
    for first_image in range(0, images, IMAGES):
        image = first_image + tl.arange(0, IMAGES)
        present = image < images
        pulled = tl.zeros([IMAGES, COLUMNS], tl.float32)
        for first in range(begin // ROWS * ROWS, channels, ROWS):
            row = first + tl.arange(0, ROWS)
            block = factor_block(factor, row, column, channels, w_t, WIDE)
            at = white + (location * images + image.to(tl.int64))[:, None] * channels + row[None, :]
            whitened = tl.load(at, mask=present[:, None] & (row < channels)[None, :], other=0.0)
            pulled += tl.sum(block[None, :, :] * whitened[:, :, None], axis=1)
        factor_of = tl.load(
            scale + image.to(tl.int64) * locations + location, mask=present, other=0.0
        )
        pulled = pulled * factor_of[:, None]
        if NEED_MEAN:
            mean_sum += tl.sum(pulled, axis=0)
        if NEED_X:
            to = to_x + image.to(tl.int64)[:, None] * d_b + column.to(tl.int64)[None, :] * d_c
            to += at_row * d_h + at_column * d_w
            mask = present[:, None] & here[None, :]
            tl.store(to, pulled.to(to_x.dtype.element_ty), mask=mask)
    if NEED_MEAN:
        tl.store(to_mean + column.to(tl.int64) * locations + location, -mean_sum, mask=here)


@triton.jit(do_not_specialize=[
    "images", "channels", "width", "locations", "row_blocks", "entries",
    "x_b", "x_c", "x_h", "x_w", "m_c", "m_h", "m_w",
])  # fmt: skip
def _whitener_gradient(
    x,  # [B,C,H,W]
    mean,  # [C,H,W]
    white,  # [H*W,B,C]
    scale,  # [B,H*W]
    to_whitener,  # [H*W,C(C+1)/2]
    images, channels, width, locations, row_blocks, entries,
    x_b, x_c, x_h, x_w, m_c, m_h, m_w,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    place = program // row_blocks
    location = place.to(tl.int64)
    row = program % row_blocks * ROWS + tl.arange(0, ROWS)
    at_row = (place // width).to(tl.int64)
    at_column = (place % width).to(tl.int64)
    end = tl.minimum(program % row_blocks * ROWS + ROWS, channels)
    for begin in range(0, end, COLUMNS):
        column = begin + tl.arange(0, COLUMNS)
        here = column < channels
        along = column.to(tl.int64)
        centre = tl.load(mean + at_row * m_h + at_column * m_w + along * m_c, mask=here, other=0.0)
        outer = tl.zeros([ROWS, COLUMNS], tl.float32)
        of_image = white + location * images * channels
        of_x = x + at_row * x_h + at_column * x_w + along * x_c
        of_scale = scale + location
        for _ in range(0, images):
            whitened = tl.load(of_image + row, mask=row < channels, other=0.0)
            value = tl.load(of_x, mask=here, other=0.0).to(tl.float32)
            outer += (whitened * tl.load(of_scale))[:, None] * (value - centre)[None, :]
            of_image += channels
            of_x += x_b
            of_scale += locations
        offset, inside = triangle(row, column, channels)
        to = to_whitener + location * entries + offset
        tl.store(to, outer.to(to_whitener.dtype.element_ty), mask=inside)


def mahalanobis_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    whitener: Tensor,
    squared: bool,
    need_x: bool,
    need_mean: bool,
    need_whitener: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``fastalign.ops.mahalanobis``; 0 at distance 0 unless squared."""
    to_x = empty_maps(x) if need_x else no_gradient(x)
    to_mean = mean.new_empty(mean.shape) if need_mean else no_gradient(mean)
    to_whitener = whitener.new_empty(whitener.shape) if need_whitener else no_gradient(whitener)
    if x.numel() == 0:
        return to_x.zero_(), to_mean.zero_(), to_whitener.zero_()
    if whitener.dim() == 3:
        needs = {"NEED_X": need_x, "NEED_MEAN": need_mean, "NEED_WHITENER": need_whitener}
        low_rank_gradients(grad, x, mean, whitener, squared, to_x, to_mean, to_whitener, needs)
        return to_x, to_mean, to_whitener
    batch, channels, height, width = x.shape
    locations = height * width
    name = "mahalanobis_backward"
    blocks, warps = blocks_of(name, batch, channels), warps_of(name)
    columns, rows = blocks["COLUMNS"], blocks["ROWS"]
    with torch.cuda.device_of(x):
        scale = x.new_empty((batch, locations), dtype=torch.float32)
        white = x.new_empty((locations, batch, channels), dtype=torch.float32)
        run_distance(name, scale, grad, white, x, mean, whitener, squared)
        if need_x or need_mean:
            column_blocks = triton.cdiv(channels, columns)
            _input_gradient[(locations * column_blocks,)](
                whitener,
                white,
                scale,
                to_x,
                to_mean,
                batch, channels, width, locations, column_blocks,
                *(to_x.stride() if need_x else (0, 0, 0, 0)), *whitener.stride(),
                NEED_X=need_x,
                NEED_MEAN=need_mean,
                WIDE=is_wide(whitener),
                **blocks,
                num_warps=warps,
            )  # fmt: skip
        if need_whitener:
            row_blocks = triton.cdiv(channels, rows)
            _whitener_gradient[(locations * row_blocks,)](
                x,
                mean,
                white,
                scale,
                to_whitener,
                batch, channels, width, locations, row_blocks, whitener.shape[1],
                *x.stride(), *mean.stride(),
                ROWS=rows,
                COLUMNS=columns,
                num_warps=warps,
            )  # fmt: skip
    return to_x, to_mean, to_whitener
