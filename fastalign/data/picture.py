"""Decoded samples, and what they mean: 8-bit RGB for images, True and False for masks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastalign.errors import InputError

Samples = npt.NDArray[Any]


@dataclass
class Picture:
    """An upright picture as its file holds it.

    Attributes:
        values: grey ``[H,W]`` or RGB ``[H,W,3]``, unsigned, signed or floating-point.
        alpha: uint8 ``[H,W]``, 0 transparent; None: opaque.
        peak: the value of full brightness, by the file; 65535 where it says 16 bits, which many a
            camera of fewer bits does as well.
        claim: significant bits that the file states of a sample of 16 bits; None: nothing said.
        scaled: whether claimed bits are, by the format's rules, the upper ones of a sample.
        negative: 0 is white.
        lossy: compressed with loss, so that black is not quite black.
        kind: the file's format, for messages.
    """

    values: Samples
    alpha: npt.NDArray[np.uint8] | None = None
    peak: int = 255
    claim: int | None = None
    scaled: bool = False
    negative: bool = False
    lossy: bool = False
    kind: str = ""

    def __post_init__(self) -> None:
        # A fourth channel that nobody filled would make everything transparent, and so would one
        # whose 1 is opaque.
        if self.alpha is not None and self.alpha.max(initial=0) == 1:
            self.alpha = self.alpha * np.uint8(255)
        if self.alpha is not None and (not self.alpha.any() or self.alpha.min() == 255):
            self.alpha = None

    @property
    def is_deep(self) -> bool:
        """More than 8 bits per sample, unsigned."""
        return self.values.dtype == np.uint16

    @cached_property
    def largest(self) -> int:
        """The largest sample, before white and black change places."""
        return int(self.values.max())

    @cached_property
    def used(self) -> int:
        """The bits that any sample has set."""
        return int(np.bitwise_or.reduce(self.values, axis=None))


def fits_unscaled(used: int, claim: int) -> bool:
    """Whether samples with these bits set have ``claim`` significant bits at the lower end: scaled
    ones of so small a size would leave the bits below free."""
    return used < 1 << claim and bool(used & ((1 << (16 - claim)) - 1))


def to_rgb(path: Path, picture: Picture, bits: int | None) -> npt.NDArray[np.uint8]:
    """uint8 ``[H,W,3]``, laid over black where transparent.

    Args:
        path: names the file in errors.
        picture: the samples.
        bits: over how many bits samples are to be read; None: as ``picture.peak`` says.

    Raises:
        InputError: samples that have no known range.
    """
    values = _eight_bits(path, picture, bits)
    if picture.negative:
        values = 255 - values
    if picture.alpha is not None:
        alpha = picture.alpha.astype(np.uint16)
        if values.ndim == 3:
            alpha = alpha[..., None]
        values = ((values * alpha + 127) // 255).astype(np.uint8)
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, axis=2)
    return values if values.flags.writeable and values.flags.c_contiguous else values.copy()


def to_mask(path: Path, picture: Picture) -> npt.NDArray[np.bool_]:
    """bool ``[H,W]``: every pixel that is neither black nor fully transparent; where black is not
    quite black, those from half brightness on.

    Raises:
        InputError: NaN or infinite samples.
    """
    values = picture.values
    check_finite(path, values)
    if picture.lossy:
        rgb = to_rgb(path, picture, None).astype(np.uint32)
        return (rgb @ np.array([299, 587, 114], np.uint32) + 500) // 1000 >= 128
    mask = values != (_black(path, picture) if picture.negative else 0)
    if mask.ndim == 3:
        mask = mask.any(axis=2)
    return mask if picture.alpha is None else mask & (picture.alpha > 0)


def _black(path: Path, picture: Picture) -> int:
    """The sample that stands for black where 0 is white.

    Raises:
        InputError: there is white, but no black of the depth that the file states.
    """
    black = picture.peak if picture.claim is None else (1 << picture.claim) - 1
    if picture.largest > 0 and picture.values.min() == 0 and picture.largest != black:
        raise InputError(
            f"{path}: 0 is white in it and black would be {black}, but its largest sample is "
            f"{picture.largest}, so that nothing would be black; save the mask with black as 0."
        )
    return black


def check_finite(name: object, values: Samples) -> None:
    """Refuse NaN and infinite samples ``[H,W]`` or ``[H,W,C]``.

    Raises:
        InputError: there are some; it says in how many pixels.
    """
    if values.dtype.kind != "f":
        return
    good = np.isfinite(values)
    if good.all():
        return
    bad = ~good if values.ndim == 2 else ~good.all(axis=2)
    raise InputError(
        f"{name}: {int(bad.sum())} of {bad.size} pixels are NaN or infinite; replace them by real "
        "values, or leave the image out (--skip-bad)."
    )


def _eight_bits(path: Path, picture: Picture, bits: int | None) -> npt.NDArray[np.uint8]:
    values = picture.values
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "f":
        return _unit_range(path, values)
    if values.dtype != np.uint16:
        raise InputError(
            f"{path}: signed samples ({values.dtype}) from {values.min()} to {values.max()} have "
            "no known black and white; convert the image to 8 or 16 bits per sample, unsigned."
        )
    if bits is not None:
        return (values >> (bits - 8)).astype(np.uint8)
    if picture.largest > picture.peak:
        raise InputError(
            f"{path}: holds samples up to {picture.largest}, but states that {picture.peak} is the "
            "largest one; write it again."
        )
    bits = picture.peak.bit_length()
    if picture.peak == (1 << bits) - 1:
        return (values >> (bits - 8)).astype(np.uint8)
    return (values.astype(np.uint32) * 256 // (picture.peak + 1)).astype(np.uint8)


def _unit_range(path: Path, values: Samples) -> npt.NDArray[np.uint8]:
    """Floating-point samples in 0..1 as 8 bits."""
    check_finite(path, values)
    if not ((values >= 0).all() and (values <= 1).all()):
        raise InputError(
            f"{path}: floating-point images must lie in 0..1, this one spans {values.min():g} to "
            f"{values.max():g}; divide it by its full range, or convert it to 8 or 16 bits per "
            "sample."
        )
    return np.rint(values.astype(np.float32) * 255).astype(np.uint8)


def alpha_of(values: Samples) -> npt.NDArray[np.uint8]:
    """A channel of transparency ``[H,W]`` as 8 bits. Of 16-bit samples the largest counts as opaque
    where it is that of fewer bits: colours of 12 bits come with an alpha of 12 bits."""
    if values.dtype == np.uint16:
        top = int(values.max())
        bits = top.bit_length()
        full = top if bits >= 8 and top == (1 << bits) - 1 else 0xFFFF
        return (values.astype(np.uint32) * 255 // full).astype(np.uint8)
    if values.dtype.kind == "f":
        return np.rint(np.clip(np.nan_to_num(values), 0, 1) * 255).astype(np.uint8)
    return values


def narrow(path: Path, values: Samples) -> Samples:
    """32-bit integers as the uint16 that they fit into; other types as they are.

    Raises:
        InputError: they do not fit.
    """
    if values.dtype.kind not in "iu" or values.dtype.itemsize < 4:
        return values
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if low < 0 or high > 0xFFFF:
        raise InputError(
            f"{path}: grey values from {low} to {high} have no known range; convert the image to "
            "8 or 16 bits per sample, unsigned."
        )
    return values.astype(np.uint16)


def turn_upright(values: Samples, orientation: int) -> Samples:
    """The picture as EXIF orientation 1 to 8 says it is to be seen; other values say nothing."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values
