"""Reading one image or mask from a file."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fastalign.data.decode import decode
from fastalign.data.depth import Depth, depth_of
from fastalign.data.picture import to_mask, to_rgb
from fastalign.errors import DataWarning, InputError

ImageArray = npt.NDArray[np.uint8]
MaskArray = npt.NDArray[np.bool_]


def load_image(
    path: str | os.PathLike[str], *, depth: Depth | None = None, most_pixels: int | None = None
) -> ImageArray:
    """Read an image as uint8 ``[H, W, 3]`` RGB, upright as its EXIF orientation says.

    Grey, black-and-white, palette, CMYK and YCbCr images become RGB; transparent ones are laid over
    black, where any of their pixels is opaque at all. Of samples deeper than 8 bits the upper 8
    bits of the depth are kept. That depth is the one that the file states (bits per sample, largest
    value, significant bits); a file that says 16 bits and no more is read by ``depth``.
    Floating-point samples must lie in 0..1. Colour profiles are not applied.

    Args:
        path: the file: any format that Pillow or tifffile reads, or ``.npy`` with an array ``[H,
            W]`` or ``[H, W, 3]``.
        depth: of 16-bit files that state none, as :func:`settle_depth` found it for the set; a
            fitted model has it as ``model.depth``. None: all 16 bits, with a warning where that
            makes the image dark.
        most_pixels: that it may have; None: what FASTALIGN_MAX_PIXELS says.

    Raises:
        InputError: the file is missing, unreadable, empty, truncated, no image, of a kind that is
            not read, holds several pictures, NaN or infinite pixels, or samples whose range is not
            known or contradicts ``depth``.
    """
    path = Path(path)
    picture = decode(path, "image", most_pixels)
    bits = depth_of(path, picture, depth) if picture.is_deep else None
    image = to_rgb(path, picture, bits)
    _report_blank(path, image)
    return image


def load_mask(
    path: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    *,
    image_path: str | os.PathLike[str] | None = None,
    output_size: tuple[int, int] | None = None,
) -> MaskArray:
    """Read a mask as bool ``[H, W]``, True where the image is anomalous.

    Every pixel that is not black counts, so masks with 0/1, 0/255 or one value per kind of defect
    all work; fully transparent pixels do not count. In files of a lossy format (JPEG, WebP), whose
    black is not quite black, a pixel counts from half brightness on.

    Args:
        path: the mask file.
        size: height and width of the image, upright; a mask of another size is an error.
        image_path: the image, to name it in that error.
        output_size: height and width to resample to, by nearest neighbour.

    Raises:
        InputError: the file cannot be read, or the mask has another size than its image.
    """
    path = Path(path)
    mask = to_mask(path, decode(path, "mask"))
    if size is not None and mask.shape != tuple(size):
        subject = "its image" if image_path is None else f"its image {image_path}"
        turned = (
            " The sides are swapped: draw the mask on the upright image, as its EXIF orientation "
            "shows it."
            if mask.shape[::-1] == tuple(size)
            else ""
        )
        raise InputError(
            f"{path}: the mask is {mask.shape[1]} x {mask.shape[0]} pixels (width x height), but "
            f"{subject} is {size[1]} x {size[0]}; a mask must have the size of its image.{turned}"
        )
    return mask if output_size is None else resize_mask(mask, output_size)


def resize_mask(mask: MaskArray, size: tuple[int, int]) -> MaskArray:
    """The mask ``[H, W]`` at ``size`` (height, width): each pixel takes the value at its centre.

    As ``torch.nn.functional.interpolate(mode="nearest-exact")``, without its rounding: a centre
    exactly between two pixels takes the later one.
    """
    if mask.shape == tuple(size):
        return mask
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new)
        for new, old in zip(size, mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]


def _report_blank(path: Path, image: ImageArray) -> None:
    """Warn of an image of one single colour. A few rows tell nearly all others from it."""
    first = image[0, 0]
    step = max(1, image.shape[0] // 8)
    if (image[::step] == first).all() and (image == first).all():
        level = first.tolist()
        value = level[0] if len(set(level)) == 1 else level
        warnings.warn(
            f"{path}: every pixel has the same value, {value} of 255; is the light on, the lens "
            "free, the file the right one?",
            DataWarning,
            stacklevel=3,
        )
