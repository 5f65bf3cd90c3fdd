"""Maps, masks and overlays of scored images as files."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fastalign.engine.inputs import Input
from fastalign.engine.runfolder import PICTURES, companion
from fastalign.engine.scoring import Thresholds, map_at
from fastalign.engine.table import FILES
from fastalign.engine.tiff import encode_tiff
from fastalign.errors import ConfigError
from fastalign.io import atomic_write
from fastalign.numeric import whole_number
from fastalign.report.heat import (
    above_foot,
    colour_table,
    heat_overlay,
    scale_limits,
    scale_position,
)

REGIONS = "regions"
OUTPUTS = (*FILES, REGIONS)
MAP_FORMATS = ("tiff", "npy")
OVERLAY_FORMATS = ("jpg", "png")
FULL = "full"
DEFAULT_SIDE = 1024
_JPEG_QUALITY = 90
# Bytes of one pixel of pictures while they are made: map, photograph, overlay, masks, and files.
_BYTES_OF_A_PIXEL = 32
# zlib's levels, and its strategy of runs for masks, by size against time: docs/cli.md has the table
# and benchmarks/picture_size.py prints it.
_MASK_PNG = {"compress_level": 1, "compress_type": 3}
_VIEW_PNG = {"compress_level": 3}
_OVERLAY_PNG = {"compress_level": 1}
# The colour of what was not looked at.
_UNSEEN = (128, 128, 128)
_SIDES = (16, 65535)


@dataclass(frozen=True)
class PictureOptions:
    """Which pictures are written, and how.

    Attributes:
        outputs: any of ``"map"``, ``"mask"``, ``"overlay"``, and ``"regions"``, which is no picture
            and left to whoever writes the rows.
        map_format: ``"tiff"`` (float32, with a viewable PNG beside it) or ``"npy"`` (float32).
        overlay_format: ``"jpg"`` or ``"png"``.
        size: longest side in pixels; pictures are never larger than their photograph. ``"full"``:
            the photograph's own size. None: 1024, or the longest side of the model's image size
            where that is more.

    Raises:
        ConfigError: an option has no such value.
    """

    outputs: Sequence[str] = FILES
    map_format: str = "tiff"
    overlay_format: str = "jpg"
    size: int | str | None = None

    def __post_init__(self) -> None:
        for noun, value, allowed in (
            ("map format", self.map_format, MAP_FORMATS),
            ("overlay format", self.overlay_format, OVERLAY_FORMATS),
            *(("output", name, OUTPUTS) for name in self.outputs),
        ):
            if value not in allowed:
                raise ConfigError(f"{noun} {value!r}: use one of {', '.join(allowed)}.")
        if self.size is not None and self.size != FULL:
            size = whole_number("picture size", self.size, *_SIDES, text=True, other=FULL)
            object.__setattr__(self, "size", size)

    @property
    def pictures(self) -> tuple[str, ...]:
        """What of ``outputs`` are pictures."""
        return tuple(name for name in FILES if name in self.outputs)

    def at(self, photo: tuple[int, int], model: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the pictures of a photograph ``(height, width)``."""
        if self.size == FULL:
            return photo
        side = max(DEFAULT_SIDE, *model) if self.size is None else int(self.size)
        scale = min(1.0, side / max(photo))
        return max(1, round(photo[0] * scale)), max(1, round(photo[1] * scale))


class PictureWriter:
    """Writes maps, masks and overlays below ``out``, one image after the other.

    Args:
        out: the folder; files go to ``maps/``, ``masks/`` and ``overlays/`` in it.
        options: which, and how.
        limits: thresholds in force; without one for pixels there are no masks.
    """

    def __init__(self, out: Path, options: PictureOptions, limits: Thresholds) -> None:
        self._out = out
        self._options = options
        self._limits = limits

    def write(
        self, item: Input, image: npt.NDArray[np.uint8], scored: torch.Tensor
    ) -> dict[str, str]:
        """Write what was asked for of one image ``[H,W,3]``; ``scored`` is its map at the model's
        size. Returns the files by kind, relative to ``out``.

        Raises:
            InputError: a file cannot be written.
        """
        files: dict[str, str] = {}
        self.save(item, image, self.scores(image, scored), files)
        return files

    def scores(
        self, image: npt.NDArray[np.uint8], scored: torch.Tensor
    ) -> npt.NDArray[np.float32] | None:
        """The map ``[h,w]`` of an image ``[H,W,3]`` at the size of its pictures; None where none
        are asked for."""
        if not self._options.pictures:
            return None
        model = (int(scored.shape[0]), int(scored.shape[1]))
        return map_at(scored, self._options.at((image.shape[0], image.shape[1]), model))

    def bytes_of(self, photo: tuple[int, int], model: tuple[int, int]) -> int:
        """What the pictures of a photograph ``(height, width)`` take while they are made."""
        height, width = self._options.at(photo, model)
        return _BYTES_OF_A_PIXEL * height * width if self._options.pictures else 0

    def save(
        self,
        item: Input,
        image: npt.NDArray[np.uint8],
        scores: npt.NDArray[np.float32] | None,
        files: dict[str, str],
    ) -> None:
        """Write what was asked for of one image; ``scores`` are those of :meth:`scores`. Needs no
        torch, and several threads may do it at once.

        Args:
            files: gets the files by kind, relative to ``out``, each when it is written.

        Raises:
            InputError: a file cannot be written.
        """
        options, limits = self._options, self._limits
        if scores is None:
            return
        size = (scores.shape[0], scores.shape[1])

        def write(kind: str, suffix: str, data: bytes) -> Path:
            path = self._path(kind, item, suffix)
            _save(path, data)
            files[kind] = path.relative_to(self._out).as_posix()
            return path

        if "map" in options.outputs and options.map_format == "npy":
            write("map", ".npy", _encode_npy(scores))
        elif "map" in options.outputs:
            path = write("map", ".tiff", encode_tiff(scores, self._about(image, item)))
            _save(companion(path), _encode_view(scores, limits.pixel_or_nan))
        if "mask" in options.outputs and limits.pixel is not None:
            mask = Image.fromarray(limits.mask(scores))
            write("mask", ".png", _encode(mask, "PNG", **_MASK_PNG))
        if "overlay" in options.outputs:
            overlay = heat_overlay(_shrink(image, size), scores, limits.pixel_or_nan)
            encoded = _encode_overlay(overlay, options.overlay_format)
            write("overlay", f".{options.overlay_format}", encoded)

    def _path(self, kind: str, item: Input, suffix: str) -> Path:
        return self._out / PICTURES[kind] / item.stem.with_name(item.stem.name + suffix)

    def _about(self, image: npt.NDArray[np.uint8], item: Input) -> str:
        """What a map's file says about itself."""
        about = {
            "content": "anomaly score",
            "image": item.name,
            "image_size": f"{image.shape[1]} x {image.shape[0]}",
            "pixel_threshold": self._limits.pixel,
        }
        return json.dumps(about)


def _save(path: Path, data: bytes) -> None:
    with atomic_write(path) as file:
        file.write(data)


def _shrink(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    if image.shape[:2] == size:
        return image
    height, width = size
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.BOX, reducing_gap=2.0)
    return np.asarray(picture)


def _encode(image: Image.Image, kind: str, **options: int) -> bytes:
    """In memory first: Pillow hides the cause of an error while it writes to a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _encode_overlay(overlay: npt.NDArray[np.uint8], overlay_format: str) -> bytes:
    picture = Image.fromarray(overlay)
    if overlay_format == "png":
        return _encode(picture, "PNG", **_OVERLAY_PNG)
    # Thin outlines in full colour resolution.
    return _encode(picture, "JPEG", quality=_JPEG_QUALITY, subsampling=0)


def _encode_npy(scores: npt.NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, scores, allow_pickle=False)
    return buffer.getvalue()


def _encode_view(scores: npt.NDArray[np.float32], threshold: float) -> bytes:
    """A map in the colours of the report, as PNG with a palette; places without a score, at which
    nothing was compared, are grey."""
    low, high = scale_limits(threshold, scores)
    places = above_foot(scores, low)
    found = scores.reshape(-1)[places]
    position = (scale_position(found, low, high) * 254).round().astype(np.uint8)
    indices = np.zeros(scores.shape, np.uint8)
    indices.reshape(-1)[places] = np.where(np.isnan(found), np.uint8(255), position)
    picture = Image.fromarray(indices)
    picture.putpalette(colour_table(255).tobytes() + bytes(_UNSEEN))
    return _encode(picture, "PNG", **_VIEW_PNG)
