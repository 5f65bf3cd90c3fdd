"""Buffers as industrial cameras deliver them: packed samples and Bayer mosaics, by their names."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from fastalign.data.demosaic import demosaic
from fastalign.data.packing import Buffer, PixelFormat, as_bytes, rows_of, unpacked_samples
from fastalign.errors import ConfigError, InputError

_DEPTHS = "8|10|12|14|16"
_GREY = re.compile(rf"(Mono|Bayer(?:RG|GR|GB|BG))({_DEPTHS})(p|Packed)?")
_COLOUR = re.compile(rf"(RGBa|BGRa|RGB|BGR)({_DEPTHS})(p)?")
# Positions of Y0, U, Y1, V in the four bytes of two pixels.
_YUYV, _UYVY = (0, 1, 2, 3), (1, 0, 3, 2)
_YUV422 = {
    "YUV422_8": _YUYV,
    "YUV422_8_UYVY": _UYVY,
    "YCbCr422_8": _YUYV,
    "YCbCr422_8_CbYCrY": _UYVY,
    # Names of GigE Vision before the naming convention.
    "YUV422Packed": _UYVY,
    "YUV422_YUYV_Packed": _YUYV,
}
# Of GigE Vision before the naming convention; "packed" meant the colours side by side there.
_OLD_NAMES = {f"{c}{bits}Packed": f"{c}{bits}" for c in ("RGB", "BGR") for bits in (8, 10, 12, 16)}
_OLD_NAMES |= {"RGBA8Packed": "RGBa8", "BGRA8Packed": "BGRa8"}

_BITS_PER_PIXEL = (8, 10, 12, 14, 16, 24, 30, 32, 36, 42, 48, 64)


def from_camera(
    buffer: Buffer,
    pixel_format: str,
    shape: tuple[int, int],
    *,
    row_bytes: int | None = None,
) -> npt.NDArray[np.uint8]:
    """An image from a camera's buffer, as :func:`fastalign.data.prepare` takes it.

    Names are those of the GenICam Pixel Format Naming Convention: ``Mono``, ``BayerRG``,
    ``BayerGR``, ``BayerGB`` and ``BayerBG`` with 8, 10, 12, 14 or 16 bits, unpacked (``Mono12``: a
    little-endian 16-bit word with the lowest bits used), packed to a stream of bits (``Mono12p``),
    or as GigE Vision packs two samples into three bytes (``Mono12Packed``, ``Mono10Packed``);
    ``RGB`` and ``BGR``, with ``a`` for a fourth channel, which is left out; ``YUV422_8`` and
    ``YCbCr422_8`` with their orders. The letters of a Bayer name are the first two pixels of the
    first row.

    Samples of more than 8 bits keep the upper 8 bits of the depth that the name states. Bayer
    mosaics are interpolated bilinearly, the border by reflection. ``YUV422`` and ``YCbCr422`` are
    taken as full-range ITU-R BT.601, as most cameras send them.

    Args:
        buffer: bytes, or an array: uint8 of the raw bytes, or the samples of an unpacked format,
            uint8 or uint16, ``[H,W]`` or ``[H,W,C]``, whose byte order is then the array's own.
        pixel_format: name of the format.
        shape: height and width in pixels.
        row_bytes: bytes from one row to the next, where rows are padded; None: no padding. More
            bytes than the image needs (GenICam's chunk data) are left aside.

    Returns:
        uint8 ``[H,W,3]`` RGB.

    Raises:
        ConfigError: an unknown format, or a shape that it cannot have.
        InputError: too few bytes, samples above the range of the format, or an array of another
            type or shape.
    """
    height, width = _check_shape(shape)
    if not isinstance(pixel_format, str):
        raise ConfigError(f"pixel format {pixel_format!r}: give its name, such as 'BayerRG12p'.")
    # An array that a buffer stands for says what its samples and rows are.
    buffer = np.asarray(buffer) if isinstance(buffer, memoryview) else buffer
    if isinstance(buffer, np.ndarray) and buffer.ndim > 1 and buffer.dtype == np.uint8:
        row_bytes = buffer[0].size if row_bytes is None and len(buffer) == height else row_bytes
    name = _OLD_NAMES.get(pixel_format, pixel_format)
    if name in _YUV422:
        if width % 2:
            raise ConfigError(f"{pixel_format}: two pixels share their colour; width {width}: odd.")
        rows = rows_of(as_bytes(buffer), height, 2 * width, row_bytes, pixel_format)
        return _from_yuv(rows.reshape(height, width // 2, 4), _YUV422[name])
    known = _parse(name)
    if known is None:
        raise ConfigError(
            f"pixel format {pixel_format!r} is not known; known are Mono8 to Mono16, BayerRG8 to "
            "BayerBG16 (GR, GB), each also with p or Packed where it is packed, RGB8, BGR8, RGBa8, "
            f"BGRa8 and their deeper relatives, {', '.join(_YUV422)}. For others let the camera's "
            "library convert to RGB8 or Mono8."
        )
    samples = unpacked_samples(buffer, known, height, width, row_bytes, pixel_format)
    if row_bytes is None:
        _check_surplus(buffer, known, height * width, pixel_format)
    values = (samples >> (known.bits - 8)).astype(np.uint8)
    if known.colours.startswith("Bayer"):
        if height < 2 or width < 2:
            raise ConfigError(
                f"{pixel_format}: a mosaic needs 2 x 2 pixels, not {width} x {height}."
            )
        return demosaic(values, known.colours[-2:])
    if known.channels == 1:
        return np.repeat(values, 3, axis=2) if values.ndim == 3 else np.stack([values] * 3, axis=2)
    order = [0, 1, 2] if known.colours.startswith("RGB") else [2, 1, 0]
    return np.ascontiguousarray(values[..., order])


def _parse(name: str) -> PixelFormat | None:
    if found := _GREY.fullmatch(name):
        colours, bits, packing = found[1], int(found[2]), found[3] or ""
        odd = bits in (8, 16) or (packing == "Packed" and bits == 14)
        return None if packing and odd else PixelFormat(colours, bits, packing, 1)
    if found := _COLOUR.fullmatch(name):
        packing = found[3] or ""
        bits = int(found[2])
        return (
            None
            if packing and bits in (8, 16)
            else PixelFormat(found[1], bits, packing, 4 if found[1].endswith("a") else 3)
        )
    return None


def _check_surplus(buffer: Buffer, form: PixelFormat, pixels: int, name: str) -> None:
    """Refuse a buffer that has the size of another format: what a camera hangs on is no image."""
    size = buffer.nbytes if isinstance(buffer, np.ndarray) else len(buffer)
    stored = 16 if form.bits > 8 and not form.packing else form.bits
    bits = form.channels * (12 if form.packing == "Packed" else stored)
    other = next((n for n in _BITS_PER_PIXEL if n > bits and -(-pixels * n // 8) == size), None)
    if other is not None:
        raise InputError(
            f"{name}: {bits} bits per pixel, but the {size} bytes are those of {other} bits per "
            "pixel; name the format that the camera has sent."
        )


def _check_shape(shape: tuple[int, int]) -> tuple[int, int]:
    sides = tuple(shape) if isinstance(shape, tuple | list) else ()
    if len(sides) != 2 or not all(side >= 1 and side % 1 == 0 for side in sides):
        raise ConfigError(
            f"shape {shape!r}: give height and width in pixels, such as (1024, 1280)."
        )
    return int(sides[0]), int(sides[1])


def _from_yuv(
    quads: npt.NDArray[np.uint8], order: tuple[int, int, int, int]
) -> npt.NDArray[np.uint8]:
    """RGB ``[H,W,3]`` of ``[H,W/2,4]``."""
    y0, u, y1, v = (quads[..., place].astype(np.float32) for place in order)
    luma = np.stack([y0, y1], axis=2)
    blue, red = (u - 128)[..., None], (v - 128)[..., None]
    planes = [
        luma + 1.402 * red,
        luma - 0.344136 * blue - 0.714136 * red,
        luma + 1.772 * blue,
    ]
    rgb = np.stack(planes, axis=3).reshape(len(quads), -1, 3)
    return np.rint(np.clip(rgb, 0, 255)).astype(np.uint8)
