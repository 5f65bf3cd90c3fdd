"""The one resizing of photographs. It needs numpy and Pillow, and no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastalign.numeric import whole_pair

Pixels = npt.NDArray[np.uint8]


def check_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """``image_size`` as two ints.

    Raises:
        ConfigError: it is not two positive whole numbers.
    """
    return whole_pair(
        "image size", image_size, because="height and width in pixels, such as (256, 256)"
    )


def resize_image(image: Pixels, image_size: tuple[int, int]) -> Pixels:
    """The whole image at another size, bilinear with antialiasing; its aspect ratio is not kept.

    Pillow's ``resize`` with ``BILINEAR``: a triangle as wide as two pixels of the coarser of the
    two grids, along the rows and then along the columns, each rounded to 8 bits, in integers. So it
    is the same on every processor. torch's antialiased ``interpolate`` of bytes has coarser weights
    and differs by 1 in up to a fifth of all values.

    Args:
        image: uint8 ``[H,W,3]``.
        image_size: height and width of the result.

    Returns:
        uint8 ``[height,width,3]``, contiguous and writable; ``image`` itself if it is all that.

    Raises:
        ValueError: ``image`` has another shape or dtype.
        ConfigError: ``image_size`` is not two positive numbers.
    """
    from PIL import Image

    height, width = check_size(image_size)
    if not isinstance(image, np.ndarray):
        raise ValueError(
            f"image: expected a numpy array, uint8 [H, W, 3], got {type(image).__name__}; of a "
            "tensor [3, H, W] in 0..255 that is image.permute(1, 2, 0).byte().numpy()."
        )
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(
            f"image: expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}; load_image "
            f"gives such an array of a file{_remedy(image)}."
        )
    if image.shape[:2] == (height, width):
        return np.require(image, requirements=["C", "W"])
    whole = Image.fromarray(np.ascontiguousarray(image))
    return np.array(whole.resize((width, height), Image.Resampling.BILINEAR))


def _remedy(image: npt.NDArray[Any]) -> str:
    """How to get there from what other libraries give."""
    if image.ndim == 2 and image.dtype == np.uint8:
        return ", numpy.stack([image] * 3, axis=2) of a grey one"
    if image.ndim == 3 and image.shape[0] == 3 and image.shape[2] != 3:
        return ", image.transpose(1, 2, 0) of one whose colours come first"
    if image.dtype.kind == "f":
        bad = int((~np.isfinite(image)).sum())
        if bad:
            return f"; {bad} of its {image.size} values are NaN or infinite"
        scale = "image * 255" if image.size and image.max() <= 1 else "image"
        return f", numpy.rint({scale}).astype(numpy.uint8) of this one"
    if image.dtype == np.uint16:
        return ", (image >> (bits - 8)).astype(numpy.uint8) of one with that many bits used"
    return ""
