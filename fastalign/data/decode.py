"""From a file to its samples, by the library that reads the format."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fastalign.data import npy, tiff
from fastalign.data.deep import another_follows, look, read_deep
from fastalign.data.intact import check_intact
from fastalign.data.picture import Picture, narrow
from fastalign.data.pillow import (
    DECODING_ERRORS,
    Unread,
    frames,
    open_image,
    orientation_of,
    to_picture,
)
from fastalign.data.unreadable import explain
from fastalign.errors import ConfigError, InputError, LargeFileError

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image

MAX_PIXELS = 1 << 28
"""Pixels that an image may have, unless FASTALIGN_MAX_PIXELS says otherwise."""


def decode(path: Path, noun: str, most_pixels: int | None = None) -> Picture:
    """The samples of a file, upright.

    Args:
        path: the file.
        noun: what messages call it: image or mask.
        most_pixels: that it may have, where that is fewer than FASTALIGN_MAX_PIXELS says.

    Raises:
        InputError: the file is missing, unreadable, empty, truncated, no image, of a kind that is
            not read, too large, or holds more than one picture.
        ConfigError: FASTALIGN_MAX_PIXELS is no number.
    """
    limit = _max_pixels()

    def check_size(width: int, height: int) -> None:
        if most_pixels is not None and width * height > most_pixels:
            raise InputError(
                f"{path}: the {noun} has {width} x {height} pixels, more than the {most_pixels} "
                "that are taken here; make it smaller."
            )
        if width * height > limit:
            raise InputError(
                f"{path}: the {noun} has {width} x {height} pixels, more than the {limit} allowed, "
                "a guard against files that lie about their size; if it is really that large, set "
                f"the environment variable FASTALIGN_MAX_PIXELS={width * height}, or cut it into "
                "tiles."
            )

    try:
        picture = _read(path, check_size)
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
        raise InputError(f"{path}: {explain(path, noun, error)}") from error
    if noun == "image":
        picture.values = narrow(path, picture.values)
    return picture


class _Size(Exception):
    """Width and height of a file, in place of its samples."""


def size_of(path: Path) -> tuple[int, int] | None:
    """Height and width that a file states in its head, before it is turned upright; None where it
    cannot be read."""

    def stop(width: int, height: int) -> None:
        raise _Size(height, width)

    try:
        _read(path, stop)
    except _Size as size:
        height, width = size.args
        return int(height), int(width)
    except (Unread, tiff.Unsupported, MemoryError, InputError, *DECODING_ERRORS):
        return None
    return None


def _read(path: Path, check_size: Callable[[int, int], None]) -> Picture:
    with open(path, "rb") as file:
        head = file.read(12)
    if head.startswith(npy.SIGNATURE):
        return npy.read_npy(path, check_size)
    if head.startswith(tiff.SIGNATURES):
        return _read_tiff(path, check_size)
    return _read_by_pillow(path, check_size)


def states_no_depth(path: Path) -> bool:
    """Whether a file may hold 16-bit samples of a depth that only its values tell: by its head
    alone. False for what cannot be read."""
    try:
        with open(path, "rb") as file:
            head = file.read(12)
            if head.startswith(npy.SIGNATURE):
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
