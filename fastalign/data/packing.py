"""Samples out of the bytes of a camera's buffer: rows, packed bits, and words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fastalign.errors import ConfigError, InputError

Buffer: TypeAlias = "bytes | bytearray | memoryview | npt.NDArray[Any]"


@dataclass(frozen=True)
class PixelFormat:
    """What the name of a pixel format says.

    Attributes:
        colours: ``Mono``, ``Bayer`` with its order, ``RGB`` and the like.
        bits: of a sample.
        packing: ``""``, ``"p"`` (a stream of bits) or ``"Packed"`` (two samples in three bytes).
        channels: samples of a pixel.
    """

    colours: str
    bits: int
    packing: str
    channels: int


def unpacked_samples(
    buffer: Buffer, form: PixelFormat, height: int, width: int, row_bytes: int | None, name: str
) -> npt.NDArray[Any]:
    """uint8 or uint16 ``[H,W]`` or ``[H,W,C]`` with the lowest ``form.bits`` bits used; ``name`` is
    the format's in messages.

    Raises:
        ConfigError: rows shorter than they need to be.
        InputError: too few bytes, samples above the range, or an array of another type or shape.
    """
    number = width * form.channels
    shape = (height, width) if form.channels == 1 else (height, width, form.channels)
    wide = form.bits > 8 and not form.packing
    if isinstance(buffer, np.ndarray) and buffer.ndim > 1 and len(buffer) != height:
        raise InputError(
            f"{name}: an array {list(buffer.shape)} has not the {height} rows of the shape "
            f"{height} x {width}; give the shape that the camera states."
        )
    if isinstance(buffer, np.ndarray) and buffer.dtype.newbyteorder("=") == np.uint16:
        if not wide:
            raise InputError(f"{name}: expected bytes (uint8), the array is uint16.")
        if buffer.size != height * number:
            raise InputError(
                f"{name}: an array {list(buffer.shape)} is not {list(shape)}; give the shape that "
                "the camera states."
            )
        samples: npt.NDArray[Any] = buffer.astype(np.uint16).reshape(shape)
    elif form.packing == "p" and row_bytes is None:
        # The stream runs through, rows need not begin with a byte.
        bits = height * number * form.bits
        stream = rows_of(as_bytes(buffer), 1, -(-bits // 8), None, name)
        return _unpack(stream, form.bits, height * number).reshape(shape)
    elif form.packing == "Packed" and row_bytes is None:
        pairs = -(-height * number // 2)
        stream = rows_of(as_bytes(buffer), 1, 3 * pairs, None, name)
        return _unpack_pairs(stream, form.bits)[:, : height * number].reshape(shape)
    elif form.packing:
        needed = -(-number * form.bits // 8) if form.packing == "p" else 3 * -(-number // 2)
        rows = rows_of(as_bytes(buffer), height, needed, row_bytes, name)
        if form.packing == "p":
            return _unpack(rows, form.bits, number).reshape(shape)
        return _unpack_pairs(rows, form.bits)[:, :number].reshape(shape)
    else:
        rows = rows_of(as_bytes(buffer), height, number * (2 if wide else 1), row_bytes, name)
        samples = (np.ascontiguousarray(rows).view("<u2") if wide else rows).reshape(shape)
    largest = int(samples.max())
    if largest >= 1 << form.bits:
        raise InputError(
            f"{name}: holds samples up to {largest}, above the {(1 << form.bits) - 1} of "
            f"{form.bits} bits; name the format that the camera has sent (left-aligned samples "
            f"are {name.replace(str(form.bits), '16')} here)."
        )
    return samples


def as_bytes(buffer: Buffer) -> npt.NDArray[np.uint8]:
    """The bytes of a buffer in their order, ``[N]``.

    Raises:
        InputError: an array of another type than uint8.
    """
    if isinstance(buffer, np.ndarray):
        if buffer.dtype != np.uint8:
            raise InputError(
                f"the array has the type {buffer.dtype}; give the camera's bytes (uint8), or "
                "uint16 samples of a format that is not packed."
            )
        return np.ascontiguousarray(buffer).reshape(-1)
    return np.frombuffer(buffer, np.uint8)


def rows_of(
    data: npt.NDArray[np.uint8], height: int, used: int, row_bytes: int | None, name: str
) -> npt.NDArray[np.uint8]:
    """The bytes of each row without padding, ``[H, used]``.

    Raises:
        ConfigError: rows shorter than they need to be.
        InputError: too few bytes.
    """
    step = used if row_bytes is None else row_bytes
    if step < used:
        raise ConfigError(f"{name}: {step} bytes per row are fewer than the {used} that it needs.")
    needed = step * (height - 1) + used
    if data.size < needed:
        raise InputError(
            f"{name}: {data.size} bytes, but {needed} are needed for this shape; the frame is "
            "incomplete, or has another size or format."
        )
    return np.lib.stride_tricks.as_strided(data, (height, used), (step, 1), writeable=False)


def _unpack(rows: npt.NDArray[np.uint8], bits: int, number: int) -> npt.NDArray[np.uint16]:
    """Samples ``[H, number]`` of a stream of bits, lowest bits first."""
    # So many samples fill so many whole bytes: 4 in 5 at 10 bits, 2 in 3 at 12, 4 in 7 at 14.
    period = 8 // math.gcd(8, bits)
    size = bits * period // 8
    groups = -(-number // period)
    missing = max(0, groups * size - rows.shape[1])
    data = np.pad(rows[:, : groups * size], ((0, 0), (0, missing)))
    data = data.reshape(len(rows), groups, size)
    samples = np.empty((len(rows), groups, period), np.uint16)
    for index in range(period):
        first, shift = divmod(index * bits, 8)
        words = data[..., first].astype(np.uint32)
        for step in range(1, min(3, size - first)):
            words |= data[..., first + step].astype(np.uint32) << (8 * step)
        samples[..., index] = (words >> shift) & ((1 << bits) - 1)
    return samples.reshape(len(rows), -1)[:, :number]


def _unpack_pairs(rows: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint16]:
    """Samples of GigE Vision's packing: upper 8 bits of two samples around a byte of the rest."""
    first, rest, second = (rows[:, start::3].astype(np.uint16) for start in range(3))
    low = bits - 8
    mask = (1 << low) - 1
    both = [(first << low) | (rest & mask), (second << low) | ((rest >> 4) & mask)]
    return np.stack(both, axis=2).reshape(len(rows), -1)
