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
from fastalign.report.heat import colour_table, heat_overlay, scale_limits

REGIONS = "regions"
OUTPUTS = (*FILES, REGIONS)
MAP_FORMATS = ("tiff", "npy")
OVERLAY_FORMATS = ("jpg", "png")
FULL = "full"
DEFAULT_SIDE = 1024
_JPEG_QUALITY = 90
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
        size. Returns the files by kind, relative to ``out``."""
        options, limits = self._options, self._limits
        model = (int(scored.shape[0]), int(scored.shape[1]))
        size = options.at((image.shape[0], image.shape[1]), model)
        scores = map_at(scored, size)
        written = {}
        if "map" in options.outputs:
            path = self._path("map", item, f".{options.map_format}")
            if options.map_format == "npy":
                _save(path, _encode_npy(scores))
            else:
                _save(path, encode_tiff(scores, self._about(image, item)))
                _save(companion(path), _encode_view(scores, limits.pixel_or_nan))
            written["map"] = path
        if "mask" in options.outputs and limits.pixel is not None:
            written["mask"] = path = self._path("mask", item, ".png")
            _save(path, _encode(Image.fromarray(limits.mask(scores)), "PNG"))
        if "overlay" in options.outputs:
            written["overlay"] = path = self._path("overlay", item, f".{options.overlay_format}")
            overlay = Image.fromarray(
                heat_overlay(_shrink(image, size), scores, limits.pixel_or_nan)
            )
            _save(path, _encode(overlay, "PNG" if options.overlay_format == "png" else "JPEG"))
        return {kind: path.relative_to(self._out).as_posix() for kind, path in written.items()}

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


def _encode(image: Image.Image, kind: str) -> bytes:
    """In memory first: Pillow hides the cause of an error while it writes to a file."""
    buffer = io.BytesIO()
    if kind == "JPEG":
        # Thin outlines in full colour resolution.
        image.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    else:
        image.save(buffer, kind)
    return buffer.getvalue()


def _encode_npy(scores: npt.NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, scores, allow_pickle=False)
    return buffer.getvalue()


def _encode_view(scores: npt.NDArray[np.float32], threshold: float) -> bytes:
    """A map in the colours of the report, as PNG with a palette; places without a score, at which
    nothing was compared, are grey."""
    low, high = scale_limits(threshold, scores)
    position = np.nan_to_num((scores - low) / (high - low), nan=0.0, posinf=1.0, neginf=0.0)
    places = (np.clip(position, 0.0, 1.0) * 254).round().astype(np.uint8)
    picture = Image.fromarray(np.where(np.isnan(scores), np.uint8(255), places))
    picture.putpalette(colour_table(255).tobytes() + bytes(_UNSEEN))
    return _encode(picture, "PNG")
