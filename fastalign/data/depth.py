"""How many bits of a 16-bit sample a camera uses, and how the files of one depth are read."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastalign.data.bits import apparent_bits, free_bits
from fastalign.data.picture import Picture, fits_unscaled
from fastalign.errors import ConfigError, DataWarning, InputError
from fastalign.numeric import whole_number

_FROM_OPTION = "given"
# An image whose values stay below these parts of the range is warned about, and refused.
_DIM = 4
_DARKEST = 16
# So many different values, of so many looked at, are no drawing.
_DIFFERENT, _LOOKED_AT = 8, 1 << 16


@dataclass(frozen=True)
class Depth:
    """The depth of 16-bit files that state none; see :func:`settle_depth`.

    Attributes:
        bits: significant bits, 8 to 16. None: no such file was among the photographs, so one that
            comes later is read only if its values leave no choice.
        left: they are the upper bits of a sample, which is then read over all 16 bits; else the
            lower ones.
        source: where this is known from, in words; "given" if a user said so.
        free: lowest bits that no sample of the photographs has set.
    """

    bits: int | None
    left: bool = False
    source: str = _FROM_OPTION
    free: int = 0

    def __post_init__(self) -> None:
        if self.bits is not None:
            whole_number("bit depth", self.bits, 8, 16)

    @property
    def given(self) -> bool:
        """Whether a user said so."""
        return self.source == _FROM_OPTION

    @property
    def used_bits(self) -> int | None:
        """Bits over which samples are read: all 16 where they are left-aligned."""
        return 16 if self.left else self.bits

    def describe(self) -> str:
        """One clause, such as ``12 bits of 16, right-aligned (largest value 3891 of 23 files)``."""
        if self.bits is None:
            return "8 bits"
        place = "" if self.bits == 16 else f" of 16, {'left' if self.left else 'right'}-aligned"
        return f"{self.bits} bits{place} ({self.source})"

    def record(self) -> dict[str, Any]:
        """JSON-able, for :meth:`from_record`."""
        return asdict(self)

    @staticmethod
    def from_record(record: Mapping[str, Any] | None) -> Depth | None:
        """What :meth:`record` gave; None for None, as models have that were fitted without one."""
        return None if record is None else Depth(**record)

    def bits_of(self, path: Path, picture: Picture) -> int:
        """Over how many bits a picture of open depth is to be read.

        Raises:
            InputError: its values contradict this depth.
        """
        used = picture.used
        highest = (1 << used.bit_length()) - 1
        if self.used_bits is None:
            if used.bit_length() > 14:
                return 16
            raise InputError(
                f"{path}: a 16-bit file that states no depth and uses values up to "
                f"{picture.largest} only, while the model's photographs have 8 bits; "
                f"{_remedy(apparent_bits(used))}"
            )
        top = (1 << self.used_bits) - 1
        if used > top:
            raise InputError(
                f"{path}: uses values up to {picture.largest}, but the depth is "
                f"{self.describe()}, so up to {top}; {_remedy(apparent_bits(used))}"
            )
        if not self.given:
            self._check_alignment(path, picture)
        if used and not self.given and (highest + 1) * _DIM <= top + 1:
            message = (
                f"{path}: uses values up to {picture.largest} only, but the depth is "
                f"{self.describe()}, so up to {top}: it is dark, or stored in another way; "
                f"{_remedy(apparent_bits(used))}"
            )
            if (highest + 1) * _DARKEST <= top + 1:
                raise InputError(message)
            warnings.warn(message, DataWarning, stacklevel=3)
        return self.used_bits

    def _check_alignment(self, path: Path, picture: Picture) -> None:
        """Refuse samples whose lowest bits say that they lie at the other end of 16 bits."""
        assert self.bits is not None
        shift = 16 - self.bits
        used, free = picture.used, free_bits(picture.used)
        if not shift or not used or not _has_content(picture):
            return
        if self.left:
            if used >= 1 << self.bits or free >= shift:
                return
            found = f"values up to {picture.largest} with the lowest {shift} bits set"
            other = f"right-aligned, and {1 << shift} times too dark here"
        else:
            if free < shift or free <= self.free:
                return
            found = f"values whose lowest {free} bits are 0 in every pixel"
            other = f"left-aligned, and {1 << shift} times too bright here"
        told = f"{self.bits}-{'right' if self.left else 'left'}"
        raise InputError(
            f"{path}: {found}, while the depth is {self.describe()}: it seems {other}. Store it "
            f"as the others; or say how it is stored with --bit-depth {told} (from Python: "
            f"depth=Depth({self.bits}, left={not self.left})), or that it is as the others are "
            f"with --bit-depth {self.bits}{'-left' if self.left else ''}."
        )


def depth_of(path: Path, picture: Picture, depth: Depth | None) -> int | None:
    """Over how many bits a deep picture is to be read; None: as its own largest value says.

    Args:
        path: names the file in messages.
        picture: more than 8 bits per sample.
        depth: what is known of the set that it belongs to; None: nothing.

    Raises:
        InputError: its values contradict what it states, or ``depth``.
    """
    if picture.peak != 0xFFFF:
        return None
    claim = picture.claim
    if claim is None or (depth is not None and depth.given):
        return _full_range(path, picture) if depth is None else depth.bits_of(path, picture)
    if picture.scaled:
        # The set has shown how its writer places them; a dark image of it would fit both ways.
        if depth is not None and depth.bits == claim:
            return 16 if depth.left or picture.used >= 1 << claim else claim
        return claim if fits_unscaled(picture.used, claim) else 16
    if picture.used >= 1 << claim:
        raise InputError(
            f"{path}: states {claim} bits per sample, but uses values up to {picture.largest}; "
            "mend what it states, or say how its samples are stored: --bit-depth 16 (from Python: "
            "depth=Depth(16))."
        )
    return claim


def _full_range(path: Path, picture: Picture) -> int:
    """All 16 bits, with a warning where that gives a dark image."""
    bits = apparent_bits(picture.used)
    if picture.used and bits < 16:
        # The folder's name alone, so that it is said once and not for each file.
        warnings.warn(
            f"{path.parent}: 16-bit files here, which state no depth, use {bits} bits only, as a "
            f"{bits}-bit camera gives; read over the full 16 bits they are {1 << (16 - bits)} "
            f"times too dark. Say so with --bit-depth {bits} (from Python: depth=Depth({bits})), "
            f"store them multiplied by {1 << (16 - bits)}, or as 8 bits.",
            DataWarning,
            stacklevel=4,
        )
    return 16


def parse_depth(text: str) -> Depth | None:
    """The depth that an option names: ``"12"``, ``"12-left"``; None for ``"auto"``.

    Raises:
        ConfigError: it is no such value.
    """
    number, _, place = text.strip().lower().partition("-")
    if number == "auto" and not place:
        return None
    if not number.isdecimal() or not 8 <= int(number) <= 16 or place not in ("", "left", "right"):
        raise ConfigError(
            f"--bit-depth {text!r}: use auto, or how many bits a sample of a 16-bit file uses, 8 "
            "to 16, with -left where they are the upper ones (12-left)."
        )
    return Depth(int(number), place == "left", _FROM_OPTION)


def _has_content(picture: Picture) -> bool:
    """Whether samples differ enough for their lowest bits to say something."""
    values = picture.values.reshape(-1)
    some = values[:: max(1, len(values) // _LOOKED_AT)]
    return len(np.unique(some)) >= _DIFFERENT


def _remedy(bits: int) -> str:
    return (
        f"if its samples have {bits} bits, say so with --bit-depth {bits} (from Python: "
        f"depth=Depth({bits})); if the photographs of one camera now differ, store them as before, "
        "or fit again."
    )
