"""Convolutions of a network's inference in channels_last, each with what surrounds it.

No ops of their own: their plain form is torch's, in :mod:`fastalign.nn.fused`, and sums are float32
throughout. NaN passes every clamp. Sizes come from a fixed rule, so a call always gives the same
bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastalign.kernels.common import on_device_of, processors

# Channels come in multiples of it, so that 16 bytes are loaded at once.
CHANNELS = tl.constexpr(8)
_STEP = 8


@triton.jit
def _clamped(x, low, high):
    x = tl.maximum(x, low, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(x, high, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _to_tf32(x):
    """To nearest; the tensor cores cut the last 13 bits off."""
    nearest = (x.to(tl.int32, bitcast=True) + 0x1000).to(tl.float32, bitcast=True)
    return tl.where(x == x, nearest, x)


@triton.jit(do_not_specialize=["rows", "inputs", "outputs"])
def _pointwise_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    rows,
    inputs,
    outputs,
    low,
    high,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    TF32: tl.constexpr,
):
    # A program: ROWS locations, of whatever image, times OUTPUTS channels.
    inputs = inputs * CHANNELS
    outputs = outputs * CHANNELS
    across = tl.cdiv(outputs, OUTPUTS)
    row = (tl.program_id(0) // across) * ROWS + tl.arange(0, ROWS)
    output = (tl.program_id(0) % across) * OUTPUTS + tl.arange(0, OUTPUTS)
    lane = tl.arange(0, INPUTS)
    x_ptrs = x_ptr + row[:, None].to(tl.int64) * inputs + lane[None, :]
    weight_ptrs = weight_ptr + output[None, :] * inputs + lane[:, None]
    sums = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for first in range(0, inputs, INPUTS):
        exists = first + lane < inputs
        x = tl.load(x_ptrs + first, mask=(row < rows)[:, None] & exists[None, :], other=0.0)
        weight = tl.load(
            weight_ptrs + first, mask=(output < outputs)[None, :] & exists[:, None], other=0.0
        )
        if TF32:
            sums = tl.dot(_to_tf32(x), weight, sums, input_precision="tf32")
        else:
            sums = tl.dot(x, weight, sums)
    sums += tl.load(bias_ptr + output, mask=output < outputs, other=0.0)[None, :]
    place = row[:, None].to(tl.int64) * outputs + output[None, :]
    there = (row < rows)[:, None] & (output < outputs)[None, :]
    tl.store(out_ptr + place, _clamped(sums, low, high).to(out_ptr.dtype.element_ty), mask=there)


@triton.jit
def _tap(sums, x, weight_ptr, tap, channels, c):
    return sums + x * tl.load(weight_ptr + tap * channels + c, mask=c < channels, other=0.0)[None]


@triton.jit
def _store_row(out_ptr, sums, bias, y, x, height, width, channels, c, low, high):
    place = (y * width + x)[:, None] * channels + c[None, :]
    there = (x < width)[:, None] & (c < channels)[None, :] & (y < height)
    value = _clamped(sums + bias, low, high)
    tl.store(out_ptr + place, value.to(out_ptr.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["channels", "height", "width", "rows", "columns", "top", "left"])
def _depthwise_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    channels,
    height,
    width,
    rows,
    columns,
    top,
    left,
    low,
    high,
    low_before,
    high_before,
    SIZE: tl.constexpr,
    STRIDE: tl.constexpr,
    COLUMNS: tl.constexpr,
    LANES: tl.constexpr,
):
    # A program: four rows of COLUMNS outputs times LANES channels. Each input is loaded once for
    # the outputs of one column that it is part of.
    channels = channels * CHANNELS
    c = tl.program_id(1) * LANES + tl.arange(0, LANES)
    strips = tl.cdiv(columns, COLUMNS)
    out_x = (tl.program_id(0) % strips) * COLUMNS + tl.arange(0, COLUMNS)
    out_y = (tl.program_id(0) // strips) * 4
    image = tl.program_id(2).to(tl.int64)
    x_ptr += image * height * width * channels
    out_ptr += image * rows * columns * channels
    sums_0 = tl.zeros((COLUMNS, LANES), tl.float32)
    sums_1 = sums_0
    sums_2 = sums_0
    sums_3 = sums_0
    for down in tl.static_range(3 * STRIDE + SIZE):
        in_y = out_y * STRIDE - top + down
        for right in tl.static_range(SIZE):
            in_x = out_x * STRIDE - left + right
            there = (in_x >= 0) & (in_x < width) & (in_y >= 0) & (in_y < height)
            place = (in_y * width + in_x)[:, None] * channels + c[None, :]
            mask = there[:, None] & (c < channels)[None, :]
            x = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
            x = _clamped(x, low_before, high_before)
            if down < SIZE:
                sums_0 = _tap(sums_0, x, weight_ptr, down * SIZE + right, channels, c)
            if (down >= STRIDE) & (down < STRIDE + SIZE):
                tap = (down - STRIDE) * SIZE + right
                sums_1 = _tap(sums_1, x, weight_ptr, tap, channels, c)
            if (down >= 2 * STRIDE) & (down < 2 * STRIDE + SIZE):
                tap = (down - 2 * STRIDE) * SIZE + right
                sums_2 = _tap(sums_2, x, weight_ptr, tap, channels, c)
            if down >= 3 * STRIDE:
                tap = (down - 3 * STRIDE) * SIZE + right
                sums_3 = _tap(sums_3, x, weight_ptr, tap, channels, c)
    bias = tl.load(bias_ptr + c, mask=c < channels, other=0.0)[None, :]
    _store_row(out_ptr, sums_0, bias, out_y, out_x, rows, columns, channels, c, low, high)
    _store_row(out_ptr, sums_1, bias, out_y + 1, out_x, rows, columns, channels, c, low, high)
    _store_row(out_ptr, sums_2, bias, out_y + 2, out_x, rows, columns, channels, c, low, high)
    _store_row(out_ptr, sums_3, bias, out_y + 3, out_x, rows, columns, channels, c, low, high)


@triton.jit(do_not_specialize=["height", "width", "rows", "columns", "top", "left", "outputs"])
def _image_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    mean_ptr,
    std_ptr,
    out_ptr,
    strides,
    height,
    width,
    rows,
    columns,
    top,
    left,
    outputs,
    low,
    high,
    SIZE: tl.constexpr,
    STRIDE: tl.constexpr,
    TAPS: tl.constexpr,
    COLUMNS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # A program: COLUMNS outputs of a row times all channels. Padding is 0 behind the normalisation.
    tap = tl.arange(0, TAPS)
    colour = tap // (SIZE * SIZE)
    exists = colour < 3
    strips = tl.cdiv(columns, COLUMNS)
    out_y = tl.program_id(0) // strips
    out_x = (tl.program_id(0) % strips) * COLUMNS + tl.arange(0, COLUMNS)
    in_y = out_y * STRIDE - top + (tap // SIZE) % SIZE
    in_x = out_x[:, None] * STRIDE - left + (tap % SIZE)[None, :]
    there = (exists & (in_y >= 0) & (in_y < height))[None, :] & (in_x >= 0) & (in_x < width)
    image = tl.program_id(1).to(tl.int64)
    x_ptr += image * strides[0]
    place = (colour * strides[1] + in_y * strides[2])[None, :] + in_x * strides[3]
    x = tl.load(x_ptr + place, mask=there, other=0.0)
    mean = tl.load(mean_ptr + colour, mask=exists, other=0.0)
    std = tl.load(std_ptr + colour, mask=exists, other=1.0)
    x = tl.where(there, (x - mean[None, :]) / std[None, :], 0.0)
    output = tl.arange(0, OUTPUTS)
    weight = tl.load(
        weight_ptr + output[None, :] * (3 * SIZE * SIZE) + tap[:, None],
        mask=(output < outputs)[None, :] & exists[:, None],
        other=0.0,
    )
    if PRECISION == "tf32":
        x = _to_tf32(x)
    sums = tl.dot(x.to(weight_ptr.dtype.element_ty), weight, input_precision=PRECISION)
    sums += tl.load(bias_ptr + output, mask=output < outputs, other=0.0)[None, :]
    place = ((image * rows + out_y) * columns + out_x)[:, None] * outputs + output[None, :]
    mask = (out_x < columns)[:, None] & (output < outputs)[None, :]
    tl.store(out_ptr + place, _clamped(sums, low, high).to(out_ptr.dtype.element_ty), mask=mask)


def _empty(x: Tensor, channels: int, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    shape = (len(x), channels, *size)
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)


def _tile(rows: int, inputs: int, outputs: int, halves: bool, busy: int) -> tuple[int, int, int]:
    """Locations, outputs and inputs at a time of a program, by what an H200 was quickest with."""
    across = min(64, max(16, triton.next_power_of_2(outputs)))
    along = 64 if halves and inputs > 32 else 32
    if triton.cdiv(rows, 64) * triton.cdiv(outputs, across) < 2 * busy:
        return 64, 16, along
    return (128 if halves or across <= 32 else 64), across, along


def pointwise(
    x: Tensor, weight: Tensor, bias: Tensor, clamp: tuple[float, float], *, tf32: bool = False
) -> Tensor:
    """A 1x1 convolution of ``x`` ``[B,C,H,W]`` in channels_last, clamped.

    Args:
        weight: ``[K,C]`` contiguous, of the dtype of x; for tf32 already rounded to it. C and K are
            multiples of 8.
        bias: float32 ``[K]``.
        clamp: least and greatest value of the results; infinite for none.
        tf32: float32 rounded to tf32.
    """
    outputs, inputs = weight.shape
    images, _, height, width = x.shape
    rows = images * height * width
    out = _empty(x, outputs, (height, width), x.dtype)
    tile = _tile(rows, inputs, outputs, x.element_size() == 2, processors(x))
    grid = (triton.cdiv(rows, tile[0]) * triton.cdiv(outputs, tile[1]),)
    with on_device_of(x):
        _pointwise_kernel[grid](
            x,
            weight,
            bias,
            out,
            rows,
            inputs // _STEP,
            outputs // _STEP,
            *clamp,
            ROWS=tile[0],
            OUTPUTS=tile[1],
            INPUTS=tile[2],
            TF32=tf32,
            num_warps=4,
            num_stages=3,
        )
    return out


def depthwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: int,
    before: tuple[int, int],
    size: tuple[int, int],
    clamp: tuple[float, float],
    clamp_before: tuple[float, float],
) -> Tensor:
    """A convolution of each channel by itself of ``x`` ``[B,C,H,W]`` in channels_last.

    Args:
        weight: float32 ``[k,k,C]``, C a multiple of 8.
        bias: float32 ``[C]``.
        before: rows above and columns left of the first input that are 0.
        size: height and width of the results.
        clamp, clamp_before: bounds of results and of inputs.
    """
    out = _empty(x, x.shape[1], size, x.dtype)
    grid = (triton.cdiv(size[1], 16) * triton.cdiv(size[0], 4), triton.cdiv(x.shape[1], 32), len(x))
    with on_device_of(x):
        _depthwise_kernel[grid](
            x,
            weight,
            bias,
            out,
            x.shape[1] // _STEP,
            *x.shape[2:],
            *size,
            *before,
            *clamp,
            *clamp_before,
            SIZE=weight.shape[0],
            STRIDE=stride,
            COLUMNS=16,
            LANES=32,
            num_warps=4,
        )
    return out


def of_images(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    std: Tensor,
    stride: int,
    before: tuple[int, int],
    size: tuple[int, int],
    clamp: tuple[float, float],
    *,
    tf32: bool = False,
) -> Tensor:
    """A convolution of normalised images, float32 ``[B,3,H,W]`` of any strides, in one pass.

    Args:
        weight: ``[K,3,k,k]`` contiguous, whose dtype is that of the results; for tf32 already
            rounded to it.
        bias, mean, std: float32 ``[K]``, ``[3]`` and ``[3]``.
        stride, before, size, clamp: as in :func:`depthwise`.
        tf32: float32 rounded to tf32.
    """
    outputs, _, taps, _ = weight.shape
    out = _empty(x, outputs, size, weight.dtype)
    with on_device_of(x):
        _image_kernel[(triton.cdiv(size[1], 64) * size[0], len(x))](
            x,
            weight,
            bias,
            mean,
            std,
            out,
            x.stride(),
            *x.shape[2:],
            *size,
            *before,
            outputs,
            *clamp,
            SIZE=taps,
            STRIDE=stride,
            TAPS=max(16, triton.next_power_of_2(3 * taps * taps)),
            COLUMNS=64,
            OUTPUTS=max(16, triton.next_power_of_2(outputs)),
            PRECISION="tf32" if tf32 else "ieee",
            num_warps=4,
        )
    return out
