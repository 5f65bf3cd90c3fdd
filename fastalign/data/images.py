"""Reading one image or mask from a file."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastalign.errors import DataWarning, InputError

if TYPE_CHECKING:
    from PIL.Image import Image

ImageArray = npt.NDArray[np.uint8]
MaskArray = npt.NDArray[np.bool_]

_LOSSY_FORMATS = frozenset({"AVIF", "JPEG", "JPEG2000", "MPO", "WEBP"})
_ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_DEEP_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})
_SINGLE_MODES = _DEEP_MODES | {"1", "F", "L"}
# Besides OSError, Pillow's readers let these through when a file is damaged.
_DECODING_ERRORS = (
    OSError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


def load_image(path: str | os.PathLike[str]) -> ImageArray:
    """Read an image as uint8 ``[H, W, 3]`` RGB, upright as its EXIF orientation says.

    Grey, black-and-white, palette, CMYK and YCbCr images become RGB; transparent ones are laid over
    black. Of samples deeper than 8 bits the upper 8 bits of the depth that the file states are kept
    (12 of 16 bits used: see the documentation); floating-point samples must lie in 0..1. Of
    several frames the first is read. Colour profiles are not applied.

    Raises:
        InputError: the file is missing, unreadable, empty, truncated or no image, or has samples
            whose range is not known.
    """
    path = Path(path)
    image = _decode(path, "image")
    if image.mode in _DEEP_MODES:
        grey = _upper_byte(path, image)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "F":
        return np.repeat(_unit_range(path, image)[..., None], 3, axis=2)
    return np.array(_convert(path, image, "RGBA" if _has_alpha(image) else "RGB"))


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
    image = _decode(path, "mask")
    if size is not None and (image.height, image.width) != tuple(size):
        subject = "its image" if image_path is None else f"its image {image_path}"
        turned = (
            " The sides are swapped: draw the mask on the upright image, as its EXIF orientation "
            "shows it."
            if (image.width, image.height) == tuple(size)
            else ""
        )
        raise InputError(
            f"{path}: the mask is {image.width} x {image.height} pixels (width x height), but "
            f"{subject} is {size[1]} x {size[0]}; a mask must have the size of its image.{turned}"
        )
    mask = _nonzero(path, image)
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


def _decode(path: Path, noun: str) -> Image:
    """The decoded, upright first frame; ``format`` is that of the file."""
    from PIL import Image, ImageOps

    try:
        with open(path, "rb") as file, Image.open(file) as image:
            kind = image.format
            bits = _stated_bits(image)
            image.load()
            upright = ImageOps.exif_transpose(image)
            upright.load()
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{path}: {error}; cut the {noun} into tiles or scale it down before."
        ) from error
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such {noun}; check the path.") from error
    except PermissionError as error:
        raise InputError(f"{path}: permission denied; make the {noun} readable.") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: this is a folder; give the {noun} file itself.") from error
    except _DECODING_ERRORS as error:
        raise InputError(f"{path}: {_explain(path, noun, error)}") from error
    upright.format = kind
    if bits is not None:
        upright.info["bits"] = bits
    return upright


def _explain(path: Path, noun: str, error: Exception) -> str:
    """Why a file could not be decoded, and what to do."""
    from PIL import UnidentifiedImageError

    again = f"replace it by an intact {noun} or leave it out (--skip-bad)."
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as cause:
        return f"cannot be read: {cause.strerror}; {again}"
    if not head:
        return f"the file is empty; {again}"
    if "truncated" in str(error).lower():
        return f"the {noun} is truncated ({error}); {again}"
    if isinstance(error, UnidentifiedImageError):
        if all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head):
            return f"this is a text file in the place of the {noun}; {again}"
        return f"this is no image of a format that can be read; {again}"
    return f"the {noun} is damaged ({type(error).__name__}: {error}); {again}"


def _stated_bits(image: Any) -> int | None:
    """Bits per sample that a TIFF states, None for other formats."""
    tags = getattr(image, "tag_v2", None)
    stated = tags.get(258) if tags is not None else None
    if stated is None:
        return None
    return int(stated[0] if isinstance(stated, tuple) else stated)


def _upper_byte(path: Path, image: Image) -> ImageArray:
    """A grey image of 9 to 16 bits per sample as 8 bits."""
    values = np.asarray(image)
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if low < 0 or high > 0xFFFF:
        raise InputError(
            f"{path}: grey values from {low} to {high} have no known range; convert the image to "
            "8 or 16 bits per sample, unsigned."
        )
    bits = min(max(image.info.get("bits") or 16, 8), 16)
    if bits == 16 and 0xFF < high < 0x1000:
        warnings.warn(
            f"{path.parent}: 16-bit images here use values below 4096 only, as a 12-bit camera "
            "gives; read over the full 16 bits they are nearly black. Store them multiplied by 16, "
            "or as 8 bits.",
            DataWarning,
            stacklevel=3,
        )
    return (values.astype(np.uint16) >> (bits - 8)).astype(np.uint8)


def _unit_range(path: Path, image: Image) -> ImageArray:
    """A grey image of floating-point samples in 0..1 as 8 bits."""
    values = np.asarray(image, dtype=np.float32)
    if not (np.isfinite(values).all() and (values >= 0).all() and (values <= 1).all()):
        raise InputError(
            f"{path}: floating-point images must lie in 0..1, this one spans {values.min():g} to "
            f"{values.max():g}; convert it to 8 or 16 bits per sample."
        )
    return np.rint(values * 255).astype(np.uint8)


def _has_alpha(image: Image) -> bool:
    return image.mode in _ALPHA_MODES or "transparency" in image.info


def _convert(path: Path, image: Image, mode: str) -> Image:
    """The image as RGB or L, by way of ``mode``: through RGBA it is laid over black."""
    from PIL import Image

    try:
        converted = image.convert(mode)
        if mode == "RGBA":
            black = Image.new("RGBA", image.size, (0, 0, 0, 255))
            converted = Image.alpha_composite(black, converted).convert("RGB")
    except _DECODING_ERRORS as error:
        raise InputError(
            f"{path}: files of colour mode {image.mode} cannot be read ({error}); convert it to "
            "RGB or grey."
        ) from error
    return converted


def _nonzero(path: Path, image: Image) -> MaskArray:
    if image.format in _LOSSY_FORMATS:
        return np.asarray(_convert(path, image, "L")) >= 128
    if image.mode in _SINGLE_MODES and not _has_alpha(image):
        return np.asarray(image) != 0
    # The colours of a palette count, not their numbers: which number is black is up to the writer.
    colours = np.asarray(_convert(path, image, "RGBA" if _has_alpha(image) else "RGB"))
    return np.logical_or.reduce(colours != 0, axis=2, dtype=bool)
