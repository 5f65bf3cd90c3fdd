"""Damage that decoders conceal: what a JPEG or PNG file shows of it beside its pixels.

libjpeg fills up what is missing with grey and says so in warnings that no binding hands on; zlib's
checksum is not looked at once all rows are there.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastalign.data.pillow import Unread

if TYPE_CHECKING:
    from PIL.Image import Image

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
# A marker in coded data: neither a stuffed byte, nor one that restarts the decoder, nor filling.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
# Of further pictures that belong to the first: previews, gain maps and depths by their index or
# description, and what Samsung's cameras put behind a picture.
_INDEXES = (b"MPF\0", b"Container:Directory", b"hdrgm:", b"GCamera:", b"GDepth:", b"GImage:")
_SAMSUNG = b"SEFT"
_NO_CODE = b"\x5a" * 4096
_GREY = (128, (128, 128, 128))


def check_intact(data: bytes, image: Image, reopen: Callable[[bytes], Image]) -> None:
    """Look at what a file holds besides the pixels that were decoded.

    Args:
        data: the whole file.
        image: decoded, not yet turned upright.
        reopen: decodes other bytes as ``data`` was.

    Raises:
        Unread: another picture follows the first.
        ValueError: the file is damaged; the text says where.
    """
    if data.startswith(PNG):
        _check_png(data)
    elif data.startswith(JPEG):
        end = _end_of_jpeg(data)
        if end is None:
            return
        if image.getpixel((image.width - 1, image.height - 1)) in _GREY:
            _check_filling(data, end, image, reopen)
        rest = data[end + 2 :]
        if not (rest.endswith(_SAMSUNG) or any(index in data[:end] for index in _INDEXES)):
            _check_rest(rest)


def _check_png(data: bytes) -> None:
    place = len(PNG)
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        name = data[place + 4 : place + 8]
        stop = place + 8 + length
        # Of parts that say nothing of the pixels (small first letter) none is needed.
        if not name[:1].islower() and stop + 4 <= len(data):
            stated = int.from_bytes(data[stop : stop + 4], "big")
            if zlib.crc32(memoryview(data)[place + 4 : stop]) != stated:
                raise ValueError(f"the checksum of its part {name.decode('latin-1')} is wrong")
        place = stop + 4
        if name == b"IEND":
            _check_rest(data[place:])
            return


def _end_of_jpeg(data: bytes) -> int | None:
    """Where the end marker of the first picture stands; None without one."""
    place = 2
    while place + 4 <= len(data):
        if data[place] != 0xFF:
            return None
        kind = data[place + 1]
        if kind == 0xFF:
            place += 1
            continue
        if kind == 0xD9:
            return place
        if kind == 0x01 or 0xD0 <= kind <= 0xD8:
            place += 2
            continue
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if kind == 0xDA:
            found = _MARKER.search(data, place)
            if found is None:
                return None
            place = found.start()
    return place if data[place : place + 2] == b"\xff\xd9" else None


def _check_filling(data: bytes, end: int, image: Image, reopen: Callable[[bytes], Image]) -> None:
    """The last pixel is of the grey that stands for missing data: whether more data would go on
    with the picture."""
    longer = reopen(data[:end] + _NO_CODE + data[end:])
    if longer.tobytes() != image.tobytes():
        raise ValueError("its data end before the picture does, and its last rows are filled up")


def _check_rest(rest: bytes) -> None:
    if rest.lstrip(b"\0").startswith((JPEG, PNG)):
        raise Unread(
            "another picture follows the first in this file, and one is expected; save each as a "
            "file of its own"
        )
