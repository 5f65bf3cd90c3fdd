"""Regions of interest for people: the aligned photograph to draw on, and how they lie there."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont

from fastalign.data import Depth, load_image
from fastalign.data.tensors import resized, to_float
from fastalign.engine.scoring import evidence_of, stored_depth
from fastalign.errors import InputError
from fastalign.io import atomic_write
from fastalign.ops import warp_affine
from fastalign.report.heat import shrink
from fastalign.roi import RegionsOfInterest

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD

Pixels = npt.NDArray[np.uint8]

# The longest side of a picture to draw on.
_SIDE = 4096
# Colours that stay apart for colour-blind readers, by turns.
_COLOURS = ((255, 149, 0), (0, 200, 255), (240, 80, 200), (240, 230, 60), (60, 220, 120))


@dataclass(frozen=True)
class AlignedPhotograph:
    """A photograph in the frame in which parts are compared.

    Attributes:
        picture: uint8 ``[h,w,3]``, of the photograph's size, 4096 pixels at the longest side at
            most; what it does not show is continued from its border.
        shown: the share of the part that the photograph shows, 0 to 1.
        doubt: why it is a bad one to draw on; empty: it is not.
    """

    picture: Pixels
    shown: float
    doubt: str


def align_photograph(
    model: FYD, path: str | os.PathLike[str], depth: Depth | None = None
) -> AlignedPhotograph:
    """A photograph as the model aligns it.

    Raises:
        InputError: it cannot be read.
        ConfigError: the model is not fitted.
    """
    image = load_image(Path(path), depth=depth or stored_depth(model))
    small = to_float(resized(image, model.config.image_size)[None])
    with torch.inference_mode():
        detail = model.predict_detail(small.to(model.image_threshold.device))
        picture = _shrunk(image)
        planes = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
        aligned = warp_affine(planes, detail.theta.cpu(), padding_mode="border")
    pixels = aligned[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    doubt = evidence_of(model).reason(detail, 0)
    return AlignedPhotograph(pixels, float(detail.coverage[0]), doubt)


def _shrunk(image: Pixels) -> Pixels:
    scale = _SIDE / max(image.shape[:2])
    if scale >= 1:
        return image
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))


def draw_regions(picture: Pixels, roi: RegionsOfInterest) -> Pixels:
    """A picture of the part's frame, uint8 ``[h,w,3]``, with the regions outlined and named, and
    what is not judged darker."""
    height, width = picture.shape[:2]
    labels = np.array(Image.fromarray(roi.labels).resize((width, height), Image.Resampling.NEAREST))
    drawn = np.where(labels[..., None] > 0, picture, picture // 3)
    line = max(1, round(max(height, width) / 400))
    for number in range(1, len(roi.names) + 1):
        inside = labels == number
        drawn[inside & ~shrink(inside, line)] = _COLOURS[(number - 1) % len(_COLOURS)]
    image = Image.fromarray(drawn)
    draw, size = ImageDraw.Draw(image), max(10, max(height, width) // 40)
    font = ImageFont.load_default(size)
    for number, name in enumerate(roi.names, 1):
        rows, columns = np.nonzero(labels == number)
        if len(rows):
            # At its uppermost pixel, within the picture.
            box = draw.textbbox((0, 0), name, font)
            x = min(int(columns[0]), max(0, width - int(box[2]) - line))
            y = min(int(rows[0]) + 2 * line, max(0, height - int(box[3]) - line))
            colour = _COLOURS[(number - 1) % len(_COLOURS)]
            draw.text((x, y), name, colour, font, stroke_width=2, stroke_fill=(0, 0, 0))
    return np.asarray(image)


def write_picture(path: str | os.PathLike[str], picture: Pixels) -> Path:
    """Write a picture as PNG.

    Raises:
        InputError: it has another ending, or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: the aligned photograph is written as PNG; give a name in .png.")
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=3)
    with atomic_write(path) as file:
        file.write(buffer.getvalue())
    return path
