"""Formats that Pillow reads."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from fastalign.data.picture import Picture, Samples

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

_LOSSY = frozenset({"AVIF", "HEIF", "JPEG", "JPEG2000", "MPO", "WEBP"})
_ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_DEEP_MODES = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})
_COLOUR_MODES = frozenset({"P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"})
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_HEAD = 16

# Besides OSError, decoders let these through when a file is damaged.
DECODING_ERRORS = (
    OSError,
    EOFError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


class Unread(Exception):
    """An intact file that is not read; the text says why, and the remedy."""


def open_image(file: BinaryIO) -> ImageFile:
    """The image of an open file, not yet decoded.

    As ``PIL.Image.open``, but for its limit of pixels, which is a global of the process and does
    not name the file, and for the reason, which it keeps to itself.

    Raises:
        Unread: HEIF without its library, or a format that is known and a kind of it that is not.
        ValueError: no image.
        OSError: it cannot be read.
    """
    from PIL import Image

    head = file.read(_HEAD)
    reasons: list[str] = []
    for load_plugins in (Image.preinit, Image.init):
        load_plugins()
        for name in Image.ID:
            factory, accept = Image.OPEN[name]
            verdict = accept(head) if accept is not None else True
            if isinstance(verdict, str):
                reasons.append(f"{name}: {verdict}")
            elif verdict:
                file.seek(0)
                try:
                    image = factory(file, "")
                except (SyntaxError, LookupError, TypeError, struct.error) as error:
                    if accept is not None:
                        reasons.append(f"{name}: {error}")
                    continue
                return image
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return _open_heif(file)
    if reasons:
        raise ValueError(reasons[0])
    raise NoImage("no signature of a known format")


class NoImage(ValueError):
    """The first bytes are those of no format that can be read."""


def _open_heif(file: BinaryIO) -> ImageFile:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise Unread(
            "it is a HEIF/HEIC picture, as phones write them, which needs one more library; "
            "install it with: pip install pillow-heif, or let the phone write JPEG"
        ) from error
    file.seek(0)
    image: ImageFile = HeifImageFile(file, "")
    return image


def frames(image: ImageFile) -> int:
    """Pictures that the file holds, previews and maps that belong to the first one not counted."""
    number = int(getattr(image, "n_frames", 1))
    if number == 1 or image.format not in ("MPO", "HEIF"):
        return number
    size, same = image.size, 1
    for frame in range(1, number):
        image.seek(frame)
        same += image.size == size
    image.seek(0)
    return same


def orientation_of(image: ImageFile) -> int:
    """EXIF orientation, 1 to 8; 1 where the file says nothing."""
    try:
        found = image.getexif().get(0x0112, 1)
    except DECODING_ERRORS:
        # What Pillow cannot parse of EXIF says nothing about the picture.
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def to_picture(image: ImageFile) -> Picture:
    """The samples of a decoded image, upright.

    Raises:
        Unread: a colour mode that has no conversion to RGB.
    """
    from PIL import ImageOps

    kind = image.format or ""
    values, alpha, peak = _samples(ImageOps.exif_transpose(image))
    return Picture(values, alpha, peak, lossy=kind in _LOSSY, kind=kind)


def _samples(image: Image) -> tuple[Samples, npt.NDArray[np.uint8] | None, int]:
    """Values, alpha and the value of full brightness."""
    mode = image.mode
    if mode in _DEEP_MODES:
        values = np.asarray(image).astype(np.uint16)
        clear = image.info.get("transparency")
        alpha = None if clear is None else (values != clear).astype(np.uint8) * np.uint8(255)
        return values, alpha, 0xFFFF
    if mode in ("I", "F"):
        return np.asarray(image), None, 0xFFFF if mode == "I" else 1
    if mode in _ALPHA_MODES or "transparency" in image.info:
        # By way of RGBA: what is premultiplied, or one colour that stands for transparent.
        rgba = np.asarray(image.convert("RGBA"))
        return rgba[..., :3], rgba[..., 3], 255
    if mode == "1":
        return np.asarray(image).astype(np.uint8) * np.uint8(255), None, 255
    if mode == "L":
        return np.asarray(image), None, 255
    if mode in _COLOUR_MODES:
        return np.asarray(image.convert("RGB")), None, 255
    raise Unread(f"its colour mode {mode} has no conversion to RGB; convert it to RGB or grey")
