"""Files of 9 to 16 bits per sample that Pillow cuts to 8 bits: PNG, PNM, JPEG 2000.

By rounding, in JPEG 2000, where white of 12 bits becomes black (256 taken as 0).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fastalign.data.picture import Picture, Samples, alpha_of, turn_upright

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CODESTREAM = b"\xff\x4f\xff\x51"
_HEAD = 1 << 16


@dataclass(frozen=True)
class DeepFile:
    """What the head of a deep file says.

    Attributes:
        kind: ``"PNG"``, ``"PPM"`` or ``"JPEG2000"``, as Pillow calls them.
        peak: the largest value that a sample may have.
        claim: significant bits that it states besides; None: none.
    """

    kind: str
    peak: int
    claim: int | None = None


def look(file: BinaryIO) -> DeepFile | None:
    """What an open file says, from its beginning; None where it is no deep file of these kinds."""
    head = file.read(_HEAD)
    file.seek(0)
    if head.startswith(PNG_SIGNATURE):
        return _look_at_png(head)
    if head[:1] == b"P" and head[1:2] in b"2356":
        peak = _netpbm_header(head)[3]
        return DeepFile("PPM", peak) if peak > 255 else None
    place = head.find(_CODESTREAM)
    # SIZ: marker, length, capabilities, eight sizes and offsets, number of components, precision.
    if place >= 0 and len(head) > place + 42:
        bits = (head[place + 42] & 0x7F) + 1
        if 8 < bits <= 16:
            return DeepFile("JPEG2000", (1 << bits) - 1)
    return None


def _look_at_png(head: bytes) -> DeepFile | None:
    if len(head) < 26 or head[24] != 16:
        return None
    place, claim = 8, None
    while place + 8 <= len(head):
        length, name = struct.unpack(">I4s", head[place : place + 8])
        if name == b"sBIT":
            significant = head[place + 8 : place + 8 + length]
            colours = significant[: 1 if head[25] in (0, 4) else 3]
            claim = max(colours, default=0)
        if name == b"IDAT":
            break
        place += 12 + length
    return DeepFile("PNG", 0xFFFF, claim if claim is not None and 8 <= claim < 16 else None)


def read_deep(path: Path, about: DeepFile, shown: Picture, orientation: int) -> Picture:
    """The picture at its full depth.

    Args:
        path: the file.
        about: from :func:`look`.
        shown: the same as Pillow reads it, upright.
        orientation: EXIF orientation that the file states.

    Raises:
        Exception: whatever a decoder raises for damaged files.
    """
    if about.kind == "PPM":
        return Picture(_netpbm(path.read_bytes()), None, about.peak, kind="PPM")
    if about.kind == "PNG" and shown.is_deep:
        shown.claim, shown.scaled = about.claim, True
        return shown
    import imagecodecs

    jpeg = about.kind == "JPEG2000"
    data = path.read_bytes()
    decoded = imagecodecs.jpeg2k_decode(data) if jpeg else imagecodecs.png_decode(data)
    values, alpha = _split(decoded)
    values = turn_upright(values, orientation)
    # One colour may stand for transparency as well, which Pillow has worked out.
    alpha = shown.alpha if alpha is None else turn_upright(alpha, orientation)
    return Picture(values, alpha, about.peak, about.claim, not jpeg, lossy=jpeg, kind=about.kind)


def _split(values: Samples) -> tuple[Samples, Samples | None]:
    """Colours and alpha of ``[H,W]`` or ``[H,W,C]`` uint16."""
    if values.ndim == 2:
        return values, None
    channels = values.shape[2]
    alpha = alpha_of(values[..., -1]) if channels in (2, 4) else None
    return (values[..., 0] if channels < 3 else values[..., :3]), alpha


_TOKEN = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])+(\d+)")


def _netpbm_header(data: bytes, numbers: int = 3) -> tuple[int, int, int, int]:
    """Width, height, where the samples begin, and the largest value, which a header of two numbers
    does without; zeros if it is damaged."""
    place, read = 2, []
    for _ in range(numbers):
        found = _TOKEN.match(data, place)
        if found is None or len(found[1]) > 9:
            return 0, 0, 0, 0
        read.append(int(found[1]))
        place = found.end()
    width, height, peak = (*read, 1)[:3]
    return width, height, place + 1, peak


def another_follows(file: BinaryIO) -> bool:
    """Whether an open binary PBM, PGM or PPM file holds a further picture behind the first."""
    head = file.read(_HEAD)
    kind = head[1:2]
    if head[:1] != b"P" or kind not in (b"4", b"5", b"6"):
        return False
    width, height, start, peak = _netpbm_header(head, numbers=2 if kind == b"4" else 3)
    row = -(-width // 8) if kind == b"4" else width * (3 if kind == b"6" else 1)
    file.seek(start + height * row * (2 if peak > 255 else 1))
    return start > 0 and re.match(rb"\s*P[1-7]\s", file.read(64)) is not None


def _netpbm(data: bytes) -> Samples:
    width, height, start, peak = _netpbm_header(data)
    channels = 3 if data[1:2] in b"36" else 1
    number = width * height * channels
    if data[1:2] in b"56":
        values = np.frombuffer(data, ">u2", number, start)
    else:
        text = re.sub(rb"#[^\r\n]*", b"", data[start:])
        values = np.array(text.split(maxsplit=number)[:number], dtype=np.int64)
        if len(values) < number:
            raise ValueError(f"truncated: {len(values)} of {number} samples")
    if values.size and not 0 <= int(values.min()) <= int(values.max()) <= peak:
        raise ValueError(f"holds samples above {peak}, the largest value that it states")
    values = values.astype(np.uint16).reshape(height, width, channels)
    return values[..., 0] if channels == 1 else values
