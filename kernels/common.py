"""What the Triton kernels share: how tensors are addressed, sums of partial results, group order.

Nothing here looks at a device before a kernel is launched.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

# The axis along which neighbouring elements of a map lie side by side.
NEITHER, ALONG_ROWS, ALONG_CHANNELS = 0, 1, 2

# Used where no device can be asked: the interpreter, and compiling ahead of time.
_USUAL_PROCESSORS = 132
_LONG = 2**31


def float64_limit(*tensors: Tensor) -> str | None:
    """Why Triton does not serve these tensors, or None."""
    if any(tensor.dtype == torch.float64 for tensor in tensors):
        return "the Triton kernels take float32, float16 and bfloat16, given float64"
    return None


@cache
def _processors_of(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def processors(like: Tensor) -> int:
    """Number of multiprocessors of the tensor's device."""
    return _processors_of(like.device) if like.is_cuda else _USUAL_PROCESSORS


def on_device_of(like: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device: make it the tensor's."""
    return torch.cuda.device(like.device) if like.is_cuda else nullcontext()


class Maps(NamedTuple):
    """How a kernel addresses a ``[B,C,H,W]`` tensor.

    ``order`` is the axis of stride 1, and says that locations are evenly spaced: ``row`` is then
    the distance between neighbours, whatever the row. The strides are divided by the launch's
    ``vector``, which the kernel multiplies back as a constant: so the compiler knows that rows are
    aligned and loads 16 bytes at once.
    """

    order: int
    image: int
    channel: int
    row: int
    column: int

    @property
    def strides(self) -> tuple[int, ...]:
        """Those that a kernel is given: of images, channels, rows and columns."""
        return self[1:]


def _spacing(maps: Tensor) -> int | None:
    """Distance between neighbouring locations in row-major order, None if it varies."""
    height, width = maps.shape[2:]
    if height == 1:
        return maps.stride(3)
    if width == 1:
        return maps.stride(2)
    return maps.stride(3) if maps.stride(2) == width * maps.stride(3) else None


def _order(maps: Tensor, spacing: int | None) -> int:
    if spacing == 1:
        return ALONG_ROWS
    return ALONG_CHANNELS if spacing is not None and maps.stride(1) == 1 else NEITHER


class Addressing(NamedTuple):
    """One rule for all maps of a launch."""

    maps: tuple[Maps, ...]
    vector: int  # elements; divides the strides, and the sizes below where they bound a fast axis
    channels: int
    locations: int
    row_vector: int  # vector where some map runs along rows, else 1
    channel_vector: int
    wide: bool  # offsets within an image need 64 bits


def addressing(*tensors: Tensor) -> Addressing:
    """How to address ``[B,C,H,W]`` tensors of one shape together."""
    _, channels, height, width = tensors[0].shape
    locations = height * width
    spacings = [_spacing(tensor) for tensor in tensors]
    orders = [_order(tensor, s) for tensor, s in zip(tensors, spacings, strict=True)]
    vector = 16
    for tensor, spacing, order in zip(tensors, spacings, orders, strict=True):
        if order == ALONG_ROWS:
            vector = math.gcd(vector, tensor.stride(0), tensor.stride(1), locations)
        elif order == ALONG_CHANNELS:
            vector = math.gcd(vector, tensor.stride(0), spacing or 0, channels)
    described, wide = [], locations >= _LONG
    for tensor, spacing, order in zip(tensors, spacings, orders, strict=True):
        image, channel, row, column = tensor.stride()
        extent = (channels - 1) * channel + (height - 1) * row + (width - 1) * column
        wide = wide or extent >= _LONG
        if order == NEITHER:
            described.append(Maps(order, image, channel, row, column))
        else:
            row = 1 if order == ALONG_ROWS else (spacing or 0) // vector
            channel = channel // vector if order == ALONG_ROWS else 1
            described.append(Maps(order, image // vector, channel, row, 0))
    row_vector = vector if ALONG_ROWS in orders else 1
    channel_vector = vector if ALONG_CHANNELS in orders else 1
    return Addressing(
        tuple(described),
        vector,
        channels // channel_vector,
        locations // row_vector,
        row_vector,
        channel_vector,
        wide,
    )


class Workload(NamedTuple):
    """What the plan of a launch over maps depends on."""

    images: int
    channels: int
    locations: int
    itemsize: int  # bytes of an element
    channels_inside: bool  # neighbouring elements are channels
    processors: int


def workload(maps: Tensor, described: Maps) -> Workload:
    """Of ``[B,C,H,W]`` maps, addressed as described."""
    images, channels, height, width = maps.shape
    inside = described.order == ALONG_CHANNELS
    size = maps.element_size()
    return Workload(images, channels, height * width, size, inside, processors(maps))


@triton.jit
def map_offsets(c, x, strides, width, ORDER: tl.constexpr, VECTOR: tl.constexpr):
    """Offsets within an image of channels ``c`` and locations ``x`` that broadcast together."""
    if ORDER == 1:
        offsets = c * (strides[1] * VECTOR) + x
    elif ORDER == 2:
        offsets = c + x * (strides[2] * VECTOR)
    else:
        offsets = c * strides[1] + (x // width) * strides[2] + (x % width) * strides[3]
    return offsets


# A tensor as a program's tile sees it: pointer, step between images in 64 bits, and offsets within
# an image, which broadcast to the tile. What is at an image is pointer + image * step + offsets.


@triton.jit
def place_map(ptr, strides, c, x, width, ORDER: tl.constexpr, VECTOR: tl.constexpr):
    """A ``[B,C,H,W]`` tensor at channels ``c`` and locations ``x``; strides: ``Maps.strides``."""
    if ORDER == 0:
        step = tl.cast(strides[0], tl.int64)
    else:
        step = tl.cast(strides[0], tl.int64) * VECTOR
    return ptr, step, map_offsets(c, x, strides, width, ORDER, VECTOR)


@triton.jit
def place_locations(ptr, strides, x, width):
    """A ``[B,H,W]`` tensor at locations ``x``."""
    offsets = (x // width) * strides[1] + (x % width) * strides[2]
    return ptr, tl.cast(strides[0], tl.int64), offsets


@triton.jit
def pointers_at(place, image):
    """Pointers to a placed tensor's part of an image."""
    return place[0] + image * place[1] + place[2]


@triton.jit
def load_at(place, image, exists):
    """A placed tensor's part of an image as it is stored, 0 where it does not exist."""
    return tl.load(pointers_at(place, image), mask=exists, other=0)


@triton.jit
def _sum_kernel(parts_ptr, out_ptr, number, scale, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    sums = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, number, BLOCK):
        sums += tl.load(parts_ptr + first + lane, mask=first + lane < number, other=0.0)
    tl.store(out_ptr, tl.sum(sums, 0) * tl.cast(scale, tl.float32))


def sum_parts(parts: Tensor, scale: float, out: Tensor) -> None:
    """``out`` = scale * the sum of float32 ``parts``, always in the same order."""
    _sum_kernel[(1,)](parts, out, parts.numel(), scale, BLOCK=1024, num_warps=4)


@triton.jit
def _group_kernel(labels_ptr, order_ptr, images, stride, BLOCK: tl.constexpr):
    image = tl.program_id(0)
    step = tl.cast(stride, tl.int64)
    label = tl.load(labels_ptr + image * step)
    before = tl.zeros((BLOCK,), tl.int32)
    smaller = tl.zeros((BLOCK,), tl.int32)
    equal = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, images, BLOCK):
        other = first + tl.arange(0, BLOCK)
        exists = other < images
        labels = tl.load(labels_ptr + other * step, mask=exists, other=0)
        smaller += (exists & (labels < label)).to(tl.int32)
        equal += (exists & (labels == label)).to(tl.int32)
        before += (exists & (labels == label) & (other < image)).to(tl.int32)
    begin = tl.sum(smaller, 0)
    place = begin + tl.sum(before, 0)
    tl.store(order_ptr + place, image)
    tl.store(order_ptr + images + place, begin)
    tl.store(order_ptr + 2 * images + place, begin + tl.sum(equal, 0))


def group_order(groups: Tensor) -> Tensor:
    """The images sorted by label, and for each place where its group begins and ends.

    Args:
        groups: int64 ``[B]``, B > 0.

    Returns:
        int32 ``[3,B]``: image, first place of its group, one past the last; no wait for a device.
    """
    images = groups.numel()
    order = torch.empty((3, images), dtype=torch.int32, device=groups.device)
    block = min(1024, triton.next_power_of_2(images))
    _group_kernel[(images,)](groups, order, images, groups.stride(0), BLOCK=block, num_warps=1)
    return order
