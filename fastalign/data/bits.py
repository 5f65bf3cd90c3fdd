"""Which bits the samples of a picture, or of a set, use, and the depth of the camera by them."""

from __future__ import annotations

DEPTHS = (8, 10, 12, 14, 16)
"""Depths that cameras have, in bits; what a set uses is rounded up to one of them."""


def free_bits(used: int) -> int:
    """Lowest bits that are not among those ``used``; 0 for a black picture."""
    return (used & -used).bit_length() - 1 if used else 0


def apparent_bits(used: int) -> int:
    """The camera's depth by the highest bit that is set in ``used``."""
    return next((bits for bits in DEPTHS if used < 1 << bits), DEPTHS[-1])


def alignment(used: int) -> tuple[int, bool]:
    """Depth and left alignment by the bits ``used`` that any sample of a set has set.

    Left-aligned samples of k bits leave the 16 - k lowest bits free. That counts as evidence where
    right-aligned ones would have to be deeper than 12 bits; a set that fills no more is taken as
    right-aligned, as it would be nearly black otherwise.
    """
    apparent = apparent_bits(used)
    free = free_bits(used)
    if apparent > 12 and free >= 2:
        return next(bits for bits in DEPTHS if bits >= max(16 - free, 8)), True
    return (apparent if used else 16), False
