"""The pictures of a report: made while images stream by, kept on disk until the page is written."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, features

from fastalign.regions.contour import outline
from fastalign.report.heat import heat_rgba, scale_limits
from fastalign.verdict import Verdict, judge_each

_SIDE = 320
_HEAT_SIDE = 160
# Outlines lie over enlarged photographs too.
_OUTLINE_SIDE = 640


@dataclass(frozen=True)
class GalleryItem:
    """Pictures of one image, ``width`` x ``height``, as data URIs; outlines as SVG paths in
    ``outline_width`` x ``outline_height``. ``own_size``: width and height of the photograph."""

    width: int
    height: int
    own_size: tuple[int, int]
    outline_width: int
    outline_height: int
    image: str
    aligned: str
    heat: str
    truth: str
    predicted: str


class Gallery:
    """Collects :class:`GalleryItem` objects in a folder, so that memory does not grow with their
    number.

    Args:
        folder: an existing, empty folder (a temporary one) for the pictures of one run.
        pixel_threshold: the model's; NaN leaves the predicted outlines out and stretches every map
            to its own range.
    """

    def __init__(self, folder: Path, pixel_threshold: float) -> None:
        self._folder = folder
        self._threshold = pixel_threshold

    def add(
        self,
        index: int,
        image: npt.NDArray[np.uint8],
        scores: npt.NDArray[np.float32],
        truth: npt.NDArray[np.bool_] | None,
        aligned: npt.NDArray[np.uint8],
        covered: npt.NDArray[np.bool_],
    ) -> None:
        """Store the pictures of image number ``index``.

        Args:
            index: the image's place in the list of results.
            image: ``[H, W, 3]`` uint8 at its own size.
            scores: ``[h, w]`` float32 map in the frame of ``image``, any size.
            truth: bool mask of any size, or None where there is none.
            aligned: ``[h, w, 3]`` uint8, the image as the model compared it.
            covered: ``[h, w]`` bool, False where ``aligned`` came from outside the image.
        """
        width, height = fit_inside(image.shape[1], image.shape[0], _SIDE)
        photo = Image.fromarray(image).resize(
            (width, height), Image.Resampling.BOX, reducing_gap=2.0
        )
        warped = Image.fromarray(np.dstack([aligned, covered.astype(np.uint8) * 255]))
        outline_size = fit_inside(image.shape[1], image.shape[0], _OUTLINE_SIDE)
        low, high = scale_limits(self._threshold, scores)
        heat_size = fit_inside(width, height, _HEAT_SIDE)
        heat = heat_rgba(_resize(scores, *heat_size), low, high)
        found = judge_each(_resize(scores, *outline_size), self._threshold) == Verdict.ANOMALY
        item = GalleryItem(
            width=width,
            height=height,
            own_size=(image.shape[1], image.shape[0]),
            outline_width=outline_size[0],
            outline_height=outline_size[1],
            image=data_uri(photo),
            aligned=data_uri(warped.resize((width, height), Image.Resampling.BILINEAR)),
            heat=data_uri(Image.fromarray(heat)),
            truth="" if truth is None else outline(_shrink_mask(truth, *outline_size)),
            predicted=outline(found),
        )
        self._file(index).write_text(json.dumps(asdict(item)), encoding="utf-8")

    def remove(self, index: int) -> None:
        """Forget the pictures of image number ``index``."""
        self._file(index).unlink()

    def item(self, index: int) -> GalleryItem:
        """The pictures stored as number ``index``."""
        return GalleryItem(**json.loads(self._file(index).read_text(encoding="utf-8")))

    def _file(self, index: int) -> Path:
        return self._folder / f"{index}.json"


def fit_inside(width: int, height: int, side: int) -> tuple[int, int]:
    """``(width, height)`` scaled down, never up, to fit a square of ``side``, at least 1 x 1."""
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def data_uri(image: Image.Image) -> str:
    """The image as a ``data:`` URI: WebP, or PNG where Pillow was built without WebP."""
    buffer = io.BytesIO()
    if features.check("webp"):
        image.save(buffer, "WEBP", quality=80, method=2)
        kind = "webp"
    else:
        image.save(buffer, "PNG", optimize=True)
        kind = "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _resize(scores: npt.NDArray[np.float32], width: int, height: int) -> npt.NDArray[np.float32]:
    """A map at another size, NaN where most of what a pixel stands for is."""

    def resized(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        picture = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
        return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))

    unseen = np.isnan(scores)
    if not unseen.any():
        return resized(scores)
    share = resized((~unseen).astype(np.float32))
    values = resized(np.where(unseen, np.float32(0), scores)) / np.maximum(share, 1e-6)
    return np.where(share >= 0.5, values, np.nan).astype(np.float32)


def _shrink_mask(mask: npt.NDArray[np.bool_], width: int, height: int) -> npt.NDArray[np.bool_]:
    """The mask at this size; a partly covered pixel counts, so that small defects stay."""
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(picture.resize((width, height), Image.Resampling.BOX)) > 0
