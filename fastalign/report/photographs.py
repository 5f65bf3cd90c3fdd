"""The photographs of a page at their own size, as far as its bytes allow."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from fastalign.errors import InputError

# Bytes of all photographs of a page: with its thumbnails it still goes through the mail.
PAGE_BYTES = 15_000_000
_QUALITY = 85
# Bytes per pixel that a plain photograph hardly goes below.
_LEAST_BYTES = 0.04
_TRIES = 5

Photo = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Enlarged:
    """A photograph to look at closely.

    Attributes:
        uri: a JPEG as a data URI.
        width, height: of the JPEG in pixels.
        own_width, own_height: of the photograph; larger where the bytes did not suffice.
    """

    uri: str
    width: int
    height: int
    own_width: int
    own_height: int


def enlarge(
    indices: Sequence[int], read: Callable[[int], Photo], budget: int = PAGE_BYTES
) -> Iterator[Enlarged | None]:
    """The photographs of ``indices`` one after the other.

    Each takes at most its share of the bytes that are left, so that what a simple one spares goes
    to those behind it. One that cannot be read any more is None.

    Args:
        indices: images, in the order of the page.
        read: gives a photograph ``[H, W, 3]`` uint8 by its index, or raises InputError.
        budget: bytes of all data URIs together.
    """
    left = budget
    for place, index in enumerate(indices):
        try:
            photo = read(index)
        except InputError:
            yield None
            continue
        found = _encode(photo, left // (len(indices) - place))
        left -= 0 if found is None else len(found.uri)
        yield found


def _encode(photo: Photo, allowed: int) -> Enlarged | None:
    """The largest JPEG, never above the photograph's size, whose data URI keeps within
    ``allowed`` bytes; None where that is next to nothing."""
    height, width = photo.shape[:2]
    most = 3 * allowed // 4 - 32
    scale = min(1.0, math.sqrt(max(most, 0) / _LEAST_BYTES / (width * height)))
    picture = Image.fromarray(photo)
    for _ in range(_TRIES):
        size = round(width * scale), round(height * scale)
        if min(size) < 1:
            return None
        shown = picture
        if size != picture.size:
            shown = picture.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
        buffer = io.BytesIO()
        shown.save(buffer, "JPEG", quality=_QUALITY)
        data = buffer.getvalue()
        if len(data) <= most:
            text = base64.b64encode(data).decode("ascii")
            return Enlarged(f"data:image/jpeg;base64,{text}", *size, width, height)
        scale *= 0.95 * math.sqrt(most / len(data))
    return None
