"""From a file to its samples, by the library that reads the format."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastalign.data import tiff
from fastalign.data.deep import another_follows, look, read_deep
from fastalign.data.intact import check_intact
from fastalign.data.picture import Picture, narrow
from fastalign.data.pillow import (
    DECODING_ERRORS,
    NoImage,
    Unread,
    frames,
    open_image,
    orientation_of,
    to_picture,
)
from fastalign.errors import ConfigError, InputError, LargeFileError

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image

MAX_PIXELS = 1 << 28
"""Pixels that an image may have, unless FASTALIGN_MAX_PIXELS says otherwise."""

_UNREAD_KINDS = (
    (b"\xff\xd8\xff\xf7", "JPEG-LS"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"II\xbc", "JPEG XR"),
    (b"\xff\x10\xff\x50", "JPEG XS"),
    (b"P7\n", "PAM"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"SIMPLE  =", "FITS"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"version https://git-lfs", "a pointer of Git LFS, whose content was not fetched"),
)
_NUMPY = b"\x93NUMPY"
_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def decode(path: Path, noun: str) -> Picture:
    """The samples of a file, upright.

    Args:
        path: the file.
        noun: what messages call it: image or mask.

    Raises:
        InputError: the file is missing, unreadable, empty, truncated, no image, of a kind that is
            not read, too large, or holds more than one picture.
        ConfigError: FASTALIGN_MAX_PIXELS is no number.
    """
    limit = _max_pixels()

    def check_size(width: int, height: int) -> None:
        if width * height > limit:
            raise InputError(
                f"{path}: the {noun} has {width} x {height} pixels, more than the {limit} allowed, "
                "a guard against files that lie about their size; if it is really that large, set "
                f"the environment variable FASTALIGN_MAX_PIXELS={width * height}, or cut it into "
                "tiles."
            )

    try:
        with open(path, "rb") as file:
            head = file.read(12)
        if head.startswith(_NUMPY):
            picture = _read_array(path, check_size)
        elif head.startswith(tiff.SIGNATURES):
            picture = _read_tiff(path, check_size)
        else:
            picture = _read_by_pillow(path, check_size)
        if picture.values.size == 0:
            raise ValueError("it has no pixels")
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such {noun}; check the path.") from error
    except PermissionError as error:
        raise InputError(f"{path}: permission denied; make the {noun} readable.") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: this is a folder; give the {noun} file itself.") from error
    except MemoryError as error:
        raise LargeFileError(
            f"{path}: there is not enough memory to decode it; make the {noun} smaller."
        ) from error
    except (Unread, tiff.Unsupported) as error:
        raise InputError(f"{path}: the {noun} cannot be used: {error} (--skip-bad).") from error
    except DECODING_ERRORS as error:
        raise InputError(f"{path}: {_explain(path, noun, error)}") from error
    if noun == "image":
        picture.values = narrow(path, picture.values)
    return picture


def states_no_depth(path: Path) -> bool:
    """Whether a file may hold 16-bit samples of a depth that only its values tell: by its head
    alone. False for what cannot be read."""
    try:
        with open(path, "rb") as file:
            head = file.read(12)
            if head.startswith(_NUMPY):
                return True
            if not head.startswith(tiff.SIGNATURES):
                file.seek(0)
                about = look(file)
                return about is not None and about.peak == 0xFFFF
        return not tiff.states_depth(path)
    except DECODING_ERRORS:
        return False


def deeper_than_8_bits(path: Path) -> bool:
    """Whether Pillow opens the file and it has more than 8 bits per sample, by its head alone."""
    try:
        with open(path, "rb") as file:
            if look(file) is not None:
                return True
            file.seek(0)
            return open_image(file).mode.startswith(("I", "F"))
    except (Unread, *DECODING_ERRORS):
        return False


def _max_pixels() -> int:
    text = os.environ.get("FASTALIGN_MAX_PIXELS", "")
    if not text:
        return MAX_PIXELS
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(
            f"FASTALIGN_MAX_PIXELS={text!r}: give a number of pixels, such as 400000000."
        )
    return int(text)


def _read_tiff(path: Path, check_size: Callable[[int, int], None]) -> Picture:
    try:
        return tiff.read_tiff(path, check_size)
    except tiff.NeedsPillow:
        picture = _read_by_pillow(path, check_size)
        picture.lossy = True
        return picture


def _read_by_pillow(path: Path, check_size: Callable[[int, int], None]) -> Picture:
    from PIL.Image import DecompressionBombError

    with open(path, "rb") as file:
        deep = look(file)
        try:
            image = open_image(file)
            check_size(*image.size)
            if (number := frames(image)) > 1:
                raise Unread(
                    f"it holds {number} pictures (frames), and one is expected; save each as a "
                    "file of its own"
                )
            image.load()
            file.seek(0)
            if image.format in ("JPEG", "MPO", "PNG"):
                check_intact(file.read(), image, _decoded)
                file.seek(0)
            if another_follows(file):
                raise Unread(
                    "it holds several pictures, and one is expected; save each as a file of its own"
                )
        except DecompressionBombError as error:
            # A frame larger than the picture that it is a part of.
            raise ValueError(str(error)) from error
        orientation = orientation_of(image)
        picture = to_picture(image)
    return picture if deep is None else read_deep(path, deep, picture, orientation)


def _decoded(data: bytes) -> Image:
    image = open_image(io.BytesIO(data))
    image.load()
    return image


def _read_array(path: Path, check_size: Callable[[int, int], None]) -> Picture:
    """An array in NumPy's format: ``[H,W]``, ``[H,W,1]``, RGB ``[H,W,3]`` or RGBA ``[H,W,4]``."""
    # Read and not mapped: whoever cuts a mapped file short ends the process.
    with path.open("rb") as file:
        read_header = _NPY_HEADERS[np.lib.format.read_magic(file)]
        shape, _, dtype = read_header(file)
        if len(shape) == 3 and shape[2] == 1:
            shape = shape[:2]
        if not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))):
            raise Unread(
                f"its array has the shape {list(shape)}; store grey [H, W] or RGB [H, W, 3], "
                "or turn a camera's buffer into it with fastalign.data.from_camera"
            )
        if dtype.kind not in "biuf":
            raise Unread(f"its array has the type {dtype}; store uint8, uint16 or float32")
        check_size(shape[1], shape[0])
        file.seek(0)
        values = np.lib.format.read_array(file, allow_pickle=False).reshape(shape)
    values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * np.uint8(255)
    alpha = None
    if values.ndim == 3 and values.shape[2] == 4:
        if values.dtype != np.uint8:
            raise Unread("four channels are read as RGBA, of uint8 only; leave the fourth out")
        values, alpha = values[..., :3], values[..., 3]
    peak = 255 if values.dtype.itemsize == 1 else 0xFFFF
    return Picture(values, alpha, peak, kind="NPY")


def _explain(path: Path, noun: str, error: Exception) -> str:
    """Why a file could not be decoded, and what to do."""
    again = f"replace it by an intact {noun} or leave it out (--skip-bad)."
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as cause:
        return f"cannot be read: {cause.strerror}; {again}"
    if not head:
        return f"the file is empty; {again}"
    if "truncated" in str(error).lower() or "failed to read" in str(error):
        return f"the {noun} is truncated ({error}); {again}"
    if (kind := _kind_of(head)) is not None:
        return (
            f"the {noun} is of a kind that is not read ({kind}); convert it to PNG or TIFF, "
            "or leave it out (--skip-bad)."
        )
    if all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head):
        return f"this is a text file in the place of the {noun}; {again}"
    if isinstance(error, NoImage):
        return f"this is no image of a format that can be read; {again}"
    reason = str(error) or type(error).__name__
    if _names_a_kind(reason):
        return (
            f"the {noun} is of a kind that is not read ({reason}); convert it to PNG or TIFF of 8 "
            "or 16 bits per sample, grey or RGB, or leave it out (--skip-bad)."
        )
    return f"the {noun} is damaged ({type(error).__name__}: {reason}); {again}"


def _kind_of(head: bytes) -> str | None:
    """The name of a format that a file's first bytes show, of those that are not read."""
    return next((name for start, name in _UNREAD_KINDS if head.startswith(start)), None)


def _names_a_kind(reason: str) -> bool:
    words = ("unsupported", "not supported", "not implemented", "cannot handle", "not available")
    return any(word in reason.lower() for word in (*words, "unknown pixel mode", "compression."))
