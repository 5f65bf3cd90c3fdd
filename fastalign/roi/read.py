"""Regions of interest from files: a mask whose grey values are labels, or polygons."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

from fastalign.errors import InputError, first_line
from fastalign.roi.polygons import parse_polygons
from fastalign.roi.regions import MOST_REGIONS, Labels, RegionsOfInterest

_LOSSY = ("JPEG", "JPEG2000", "MPO", "WEBP", "AVIF", "HEIF")
_MOST_BYTES = 1 << 28
_MOST_PIXELS = 1 << 28


def read_regions(path: str | os.PathLike[str]) -> RegionsOfInterest:
    """Regions of interest of a file.

    Args:
        path: a mask of 8 bits without losses (PNG, TIFF, BMP, ...): 0 is not judged, every other
            grey value, or index of a palette, is a region of that name; or JSON with polygons as
            labelme writes it (``shapes``) or in COCO's form (``annotations``, of one image), where
            places called ``ignore`` are not judged.

    Raises:
        InputError: it cannot be read, or holds no regions.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); give a mask or a file of polygons."
        ) from error
    if size > _MOST_BYTES:
        raise InputError(f"{path}: {size} bytes are more than a file of regions takes (256 MB).")
    try:
        if head[:1] in (b"{", b"["):
            return parse_polygons(_json(path))
        return _mask(path)
    except InputError as error:
        if str(error).startswith(str(path)):
            raise
        raise InputError(f"{path}: {error}") from error


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: this is no JSON ({first_line(error)}).") from error


def _mask(path: Path) -> RegionsOfInterest:
    values = _grey(path)
    found = [value for value in np.unique(values).tolist() if value]
    if not found:
        raise InputError("the mask is 0 everywhere, so nothing would be judged; label what is.")
    if len(found) > MOST_REGIONS:
        raise InputError(
            f"the mask has {len(found)} grey values besides 0, and each is a region (at most "
            f"{MOST_REGIONS}): draw it without soft edges (antialiasing), one value for a region."
        )
    labels = np.zeros(256, np.uint8)
    labels[found] = range(1, len(found) + 1)
    names = [f"region {value}" for value in found] if len(found) > 1 else ["region"]
    return RegionsOfInterest(tuple(names), labels[values])


def _grey(path: Path) -> Labels:
    """The grey values, or indices of the palette, uint8 ``[h,w]``, of an upright picture."""
    try:
        with Image.open(path) as file:
            if file.format in _LOSSY:
                raise InputError(
                    f"a mask in {file.format}, whose losses change labels: save it as PNG."
                )
            if file.width * file.height > _MOST_PIXELS:
                raise InputError(f"{file.width} x {file.height} pixels: make the mask smaller.")
            file.load()
            image = file.convert("L") if file.mode == "1" else file
            alpha = np.asarray(image.getchannel("A")) if "A" in image.getbands() else None
            planes = np.asarray(image if image.mode in ("L", "P") else _converted(image))
    except InputError:
        raise
    except Exception as error:
        # Decoders let errors of many kinds through where a file is damaged.
        raise InputError(
            f"this is no mask that can be read ({first_line(error)}); give one as PNG, or polygons "
            "as JSON."
        ) from error
    if planes.ndim == 3:
        if (planes != planes[..., :1]).any():
            raise InputError(
                "the mask has colours: give it in grey, 0 for what is not judged and one value for "
                "each region."
            )
        planes = planes[..., 0]
    if alpha is not None:
        planes = np.where(alpha >= 128, planes, np.uint8(0))
    return np.ascontiguousarray(planes)


def _converted(image: Image.Image) -> Image.Image:
    if image.mode in ("LA", "La"):
        return image.getchannel("L")
    if image.mode in ("RGB", "RGBA", "RGBa", "RGBX"):
        return image.convert("RGB")
    raise InputError(f"a mask of mode {image.mode}: save it with 8 bits of grey, as PNG.")
