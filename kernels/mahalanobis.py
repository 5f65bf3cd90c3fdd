"""Mahalanobis distance per location from a packed inverse Cholesky factor.

Idea. One warp owns a location and up to eight images: it holds their deviations from the mean with
lanes along channels, and streams the packed triangle in blocks of rows, each row one contiguous
stretch of memory. A row meets every image while it is in registers; a shuffle tree ends each
product. Sums are plain float32 multiply-adds: tf32 would lose the distance.

Bytes: the whitener once per eight images (tiles of one location lie side by side in the grid, so
that the second reads it from L2), x and mean once from memory. In NCHW neighbouring channels of
a location lie H*W elements apart: a 32-byte sector serves eight locations, whose programs run
side by side and find it in L2. That traffic is eight times x and mean, next to a whitener of
(C + 1) / 2 times the size of the mean.

The backward saves the whitened deviations and the factor of their gradient, and has one kernel for
the gradients of x and mean (which reads the whitener again, by columns) and one for the whitener's.
One writer per element, no atomics.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastalign.ops.layout import empty_locations, empty_maps, no_gradient
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
def _deviations(
    x, mean, image, channel, images, channels, row, column,
    x_b, x_c, x_h, x_w, m_c, m_h, m_w,
):  # fmt: skip
    """x - mean at one location: [images,channels], 0 beyond either count."""
    here = channel < channels
    along = channel.to(tl.int64)
    base = x + row * x_h + column * x_w
    value = tl.load(
        base + image.to(tl.int64)[:, None] * x_b + along[None, :] * x_c,
        mask=(image < images)[:, None] & here[None, :],
        other=0.0,
    ).to(tl.float32)
    centre = tl.load(mean + row * m_h + column * m_w + along * m_c, mask=here, other=0.0)
    return tl.where((image < images)[:, None], value - centre[None, :], 0.0)


@triton.jit
def _factor_block(factor, row, column, channels, w_t, WIDE: tl.constexpr):
    """Entries [rows,columns] of a packed lower triangle, 0 above it."""
    offset = (row * (row + 1) // 2)[:, None] + column[None, :]
    if WIDE:
        offset = offset.to(tl.int64) * w_t
    else:
        offset = offset * w_t
    inside = (column[None, :] <= row[:, None]) & (row < channels)[:, None]
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
    images, channels, width, locations, image_tiles,
    x_b, x_c, x_h, x_w, m_c, m_h, m_w, w_l, w_t, g_b, g_h, g_w,
    SQUARED: tl.constexpr, SAVE: tl.constexpr, WIDE: tl.constexpr, ONE: tl.constexpr,
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
        deviation = _deviations(
            x, mean, image, lane, images, channels, at_row, at_column,
            x_b, x_c, x_h, x_w, m_c, m_h, m_w,
        )  # fmt: skip
    for first in range(0, channels, ROWS):
        row = first + tl.arange(0, ROWS)
        if ONE:
            block = _factor_block(factor, row, lane, channels, w_t, WIDE)
            whitened = tl.sum(block[None, :, :] * deviation[:, None, :], axis=2)
        else:
            whitened = tl.zeros([IMAGES, ROWS], tl.float32)
            for column in range(0, tl.minimum(first + ROWS, channels), COLUMNS):
                part = _deviations(
                    x, mean, image, column + lane, images, channels, at_row, at_column,
                    x_b, x_c, x_h, x_w, m_c, m_h, m_w,
                )  # fmt: skip
                block = _factor_block(factor, row, column + lane, channels, w_t, WIDE)
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
    tl.store(out + image.to(tl.int64) * locations + location, value, mask=image < images)


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
            block = _factor_block(factor, row, column, channels, w_t, WIDE)
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
        offset = (row * (row + 1) // 2)[:, None] + column[None, :]
        inside = (column[None, :] <= row[:, None]) & (row < channels)[:, None]
        to = to_whitener + location * entries + offset
        tl.store(to, outer.to(to_whitener.dtype.element_ty), mask=inside)


def can_run(op: str, x: Tensor, *others: Tensor) -> str | None:
    """Why the kernels cannot serve these tensors, or None."""
    if x.dtype == torch.float64:
        return "the Triton kernels take float32, float16 and bfloat16, given float64"
    return None


def _blocks(kernel: str, images: int, channels: int) -> dict[str, int]:
    """Images, rows and columns of a block: rows so many that a block fits the registers."""
    choice = forced(kernel)
    together = choice.get("images", min(triton.next_power_of_2(images), _MOST_IMAGES))
    columns = min(triton.next_power_of_2(channels), _MOST_COLUMNS)
    rows = choice.get("rows", max(2, min(16, 4096 // (columns * together))))
    return {"IMAGES": together, "ROWS": rows, "COLUMNS": columns}


def _warps(kernel: str) -> int:
    return forced(kernel).get("warps", 1)


def _is_wide(whitener: Tensor) -> bool:
    return whitener.shape[1] * abs(whitener.stride(1)) >= 2**31


def _run_distance(
    kernel: str,
    out: Tensor,
    grad: Tensor | None,
    white: Tensor | None,
    x: Tensor,
    mean: Tensor,
    whitener: Tensor,
    squared: bool,
) -> None:
    batch, channels, height, width = x.shape
    blocks = _blocks(kernel, batch, channels)
    image_tiles = triton.cdiv(batch, blocks["IMAGES"])
    _distance[(height * width * image_tiles,)](
        x,
        mean,
        whitener,
        out,
        out if grad is None else grad,
        out if white is None else white,
        batch, channels, width, height * width, image_tiles,
        *x.stride(), *mean.stride(), *whitener.stride(),
        *((0, 0, 0) if grad is None else grad.stride()),
        SQUARED=squared,
        SAVE=white is not None,
        WIDE=_is_wide(whitener),
        ONE=channels <= blocks["COLUMNS"],
        **blocks,
        num_warps=_warps(kernel),
    )  # fmt: skip


def mahalanobis(x: Tensor, mean: Tensor, whitener: Tensor, squared: bool) -> Tensor:
    """See ``fastalign.ops.mahalanobis``."""
    out = empty_locations(x)
    if x.numel() == 0:
        return out.zero_()
    with torch.cuda.device_of(x):
        _run_distance("mahalanobis", out, None, None, x, mean, whitener, squared)
    return out


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
    batch, channels, height, width = x.shape
    locations = height * width
    blocks, warps = _blocks("mahalanobis_backward", batch, channels), _warps("mahalanobis_backward")
    columns, rows = blocks["COLUMNS"], blocks["ROWS"]
    with torch.cuda.device_of(x):
        scale = x.new_empty((batch, locations), dtype=torch.float32)
        white = x.new_empty((locations, batch, channels), dtype=torch.float32)
        _run_distance("mahalanobis_backward", scale, grad, white, x, mean, whitener, squared)
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
                WIDE=_is_wide(whitener),
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
