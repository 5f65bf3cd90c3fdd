"""TIFF files: each photometric interpretation and sample type is read, or refused by name."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fastalign.data.picture import Picture, Samples, alpha_of, turn_upright

# It reports oddities of a file there, without the file's name.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

SIGNATURES = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")

_LOSSY = (6, 7, 50001)
_OLD_JPEG = 6
_JPEG = 7
# Compressions in which libtiff knows YCbCr: none, LZW, deflate, PackBits, LZMA, Zstandard, JPEG.
_CODECS_OF_YCBCR = (1, 5, _OLD_JPEG, _JPEG, 8, 32773, 32946, 34925, 50000)
# Photometric interpretations.
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_NAMES = {
    4: "a transparency mask",
    8: "CIE L*a*b* colours",
    9: "ICC L*a*b* colours",
    10: "ITU L*a*b* colours",
    32803: "a raw Bayer mosaic",
    32844: "logarithmic luminance",
    32845: "logarithmic colours",
    34892: "linear raw samples",
}


class Unsupported(Exception):
    """An intact file of a kind that is not read; the text says which, and the remedy."""


class NeedsPillow(Exception):
    """A kind that libtiff, which Pillow has, turns into RGB and tifffile does not."""


def read_tiff(path: Path, check_size: Callable[[int, int], None]) -> Picture:
    """The first picture of a TIFF file, which has to be its only one.

    Reduced copies and transparency masks in further directories belong to it and are passed over.

    Args:
        path: the file.
        check_size: called with width and height before anything is decoded.

    Raises:
        Unsupported, NeedsPillow: the kind is not read here.
        Exception: whatever tifffile and imagecodecs raise for damaged files.
    """
    from tifffile import TiffFile

    with TiffFile(path) as file:
        pages = list(file.pages)
        page: Any = pages[0]
        check_size(page.imagewidth, page.imagelength)
        _check_single(file, pages)
        tags = page.tags
        _check_samples(page)
        photometric = int(page.photometric)
        if photometric == _YCBCR and int(page.compression) != _JPEG:
            raise NeedsPillow
        if int(page.compression) == _OLD_JPEG:
            raise NeedsPillow
        _check_segments(page)
        claim = _claimed_bits(file, tags)
        values = _channels_last(page, page.asarray())
        picture = _interpret(page, photometric, values)
        orientation = int(tags.valueof(274, default=1) or 1)
    picture.kind = "TIFF"
    picture.lossy = int(page.compression) in _LOSSY
    if picture.peak == 0xFFFF:
        picture.claim = claim
    picture.values = turn_upright(picture.values, orientation)
    if picture.alpha is not None:
        picture.alpha = turn_upright(picture.alpha, orientation)
    return picture


def states_depth(path: Path) -> bool:
    """Whether the file's first directory settles how bright a sample is: all but 16 and more bits
    of integers.

    Raises:
        Exception: as :func:`read_tiff`.
    """
    from tifffile import TiffFile

    with TiffFile(path) as file:
        page: Any = file.pages[0]
        return page.bitspersample < 16 or page.dtype is None or page.dtype.kind not in "iu"


def _check_samples(page: Any) -> None:
    """Refuse what would be read as something else."""
    if 262 not in page.tags:
        raise Unsupported("it does not state whether 0 is black (photometric interpretation)")
    bits = page.bitspersample
    if not isinstance(bits, int):
        raise Unsupported(f"its channels have {'-'.join(map(str, bits))} bits; save it with 8 each")
    if bits > 16 and bits not in (32, 64):
        raise Unsupported(f"it has {bits} bits per sample; save it with 8 or 16")
    if int(page.photometric) == _YCBCR and bits != 8:
        raise Unsupported(f"it holds YCbCr colours of {bits} bits; save it as RGB")
    if int(page.photometric) == _YCBCR and int(page.compression) not in _CODECS_OF_YCBCR:
        codec = getattr(page.compression, "name", page.compression)
        raise Unsupported(f"it holds YCbCr colours compressed as {codec}; save it as RGB")


def _check_single(file: Any, pages: list[Any]) -> None:
    first = pages[0]
    if first.subfiletype & 1:
        raise Unsupported(
            "its first directory is a reduced picture, as camera raw files have it; save the full "
            "picture as PNG, JPEG or a plain TIFF"
        )
    others = [*pages[1:], *(first.pages or ())]
    further = [page for page in others if not page.subfiletype & 5]
    size = first.imagewidth * first.imagelength
    if any(page.imagewidth * page.imagelength > size for page in others):
        raise Unsupported(
            f"its first picture has {first.imagewidth} x {first.imagelength} pixels and a further "
            "one has more, as where a preview comes first; save the full picture as a file of its "
            "own"
        )
    number = len(further) + 1
    if file.is_imagej:
        number = max(number, int((file.imagej_metadata or {}).get("images", 1)))
    number *= max(int(first.imagedepth), 1)
    if number > 1:
        raise Unsupported(
            f"it holds {number} pictures (pages), and one is expected; save each as a file of its "
            "own"
        )


def _check_segments(page: Any) -> None:
    """Refuse files whose strips or tiles are missing: tifffile would fill them with zeros."""
    expected = int(np.prod(page.chunked))
    counts = page.databytecounts
    present = sum(
        offset > 0 and count > 0 for offset, count in zip(page.dataoffsets, counts, strict=False)
    )
    if present < expected and not (page.is_contiguous and present):
        raise ValueError(f"{expected - present} of {expected} strips or tiles have no data")


def _channels_last(page: Any, values: Samples) -> Samples:
    """``[H,W]`` or ``[H,W,C]`` whatever the planar configuration."""
    planes, _, height, width, samples = page.shaped
    values = values.reshape(planes, height, width, samples)
    values = np.moveaxis(values, 0, 2).reshape(height, width, planes * samples)
    return values[..., 0] if values.shape[2] == 1 else values


def _interpret(page: Any, photometric: int, values: Samples) -> Picture:
    channels = 1 if values.ndim == 2 else values.shape[2]
    if values.dtype.kind == "c":
        raise Unsupported("it holds complex numbers; save their absolute value as 8 or 16 bits")
    if photometric == _PALETTE and channels == 1 and values.dtype.kind == "u":
        return Picture(_palette_colours(page, values))
    if photometric == _CMYK and channels in (4, 5):
        return _separated(page, values)
    if photometric == _YCBCR:
        photometric = _RGB
    base = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3}.get(photometric)
    if base is None:
        name = _NAMES.get(photometric, f"photometric interpretation {photometric}")
        raw = "; fastalign.data.from_camera reads such buffers" if photometric == 32803 else ""
        raise Unsupported(f"it holds {name}{raw}; save it as RGB or grey")
    extra = channels - base
    kinds = [int(kind) for kind in page.extrasamples]
    transparent = extra == 1 and bool(kinds) and kinds[0] in (1, 2)
    if extra < 0 or extra > 1 or (extra == 1 and base == 1 and not transparent):
        raise Unsupported(
            f"it has {channels} channels, photometric {'RGB' if base == 3 else 'grey'}; save it "
            "as RGB or grey, one picture per file"
        )
    values, peak = _whole_bytes(values, page.bitspersample)
    alpha = None
    if extra:
        # Values that were multiplied by their alpha are already those over black.
        if transparent and kinds[0] == 2:
            alpha = alpha_of(values[..., base])
        values = values[..., :base] if base == 3 else values[..., 0]
    negative = photometric == _WHITE_IS_ZERO
    if negative and (values.dtype.kind != "u" or values.dtype.itemsize > 2):
        raise Unsupported(
            f"0 is white in it and its samples are {values.dtype}, whose black is not defined; "
            "save it with black as 0"
        )
    return Picture(values, alpha, peak, negative=negative)


def _whole_bytes(values: Samples, bits: int) -> tuple[Samples, int]:
    """Samples of up to 8 bits spread over 8; the value of full brightness of the others."""
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255), 255
    if values.dtype.kind == "u" and bits < 8:
        top = (1 << bits) - 1
        return ((values.astype(np.uint16) * 510 + top) // (2 * top)).astype(np.uint8), 255
    if values.dtype == np.uint16:
        return values, (1 << bits) - 1
    return values, 0xFFFF if values.dtype.kind in "iu" and values.dtype.itemsize > 1 else 255


def _palette_colours(page: Any, values: Samples) -> Samples:
    colours = page.colormap
    if colours is None:
        raise ValueError("its palette is missing")
    if values.size and int(values.max()) >= colours.shape[1]:
        raise ValueError(f"uses colour {values.max()} of a palette of {colours.shape[1]}")
    # Some writers fill in 8 bits where 16 are due.
    shift = 8 if colours.max() > 0xFF else 0
    return (colours.T >> shift).astype(np.uint8)[values.astype(np.intp)]


def _separated(page: Any, values: Samples) -> Picture:
    if values.dtype != np.uint8 or int(page.tags.valueof(332, default=1)) != 1:
        raise Unsupported("it holds inks other than 8-bit CMYK; save it as RGB")
    light = 255 - values[..., :4].astype(np.uint32)
    rgb = (light[..., :3] * light[..., 3:] + 127) // 255
    return Picture(rgb.astype(np.uint8))


def _claimed_bits(file: Any, tags: Any) -> int | None:
    """Significant bits below 16 that a tag states, None without one."""
    for code in (281, 341):  # MaxSampleValue, SMaxSampleValue
        stated = tags.valueof(code)
        largest = np.max(stated) if stated is not None else 0
        # Where it is the largest sample of this very image it says nothing about the range.
        bits = int(largest).bit_length()
        if 8 <= bits < 16 and int(largest) == (1 << bits) - 1:
            return bits
    found = None
    manager = tags.valueof(51123)  # Micro-Manager
    if isinstance(manager, dict):
        found = manager.get("BitDepth")
    elif file.is_ome and (match := re.search(r'SignificantBits="(\d+)"', file.ome_metadata or "")):
        found = match[1]
    try:
        bits = int(found) if found is not None else 0
    except (TypeError, ValueError):
        return None
    return bits if 8 <= bits < 16 else None
