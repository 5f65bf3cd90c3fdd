"""The depth of a set of 16-bit files that state none, from all of them together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from operator import or_
from pathlib import Path
from typing import NamedTuple

from fastalign.data.bits import alignment, free_bits
from fastalign.data.decode import decode, states_no_depth
from fastalign.data.depth import Depth
from fastalign.data.picture import fits_unscaled
from fastalign.errors import InputError
from fastalign.numeric import MOST_THREADS, whole_number
from fastalign.words import count

_WORKERS = max(1, min(4, os.cpu_count() or 1))


def settle_depth(paths: Sequence[str | os.PathLike[str]], *, workers: int | None = None) -> Depth:
    """The depth of the 16-bit files among photographs, from all of them together.

    Files that state their depth need none of this. Of the others the bits are collected that any
    sample has set: the highest one, rounded up to 8, 10, 12, 14 or 16, is the depth; free bits
    below say that samples are left-aligned. Files that cannot be read are passed over here.

    Args:
        paths: the photographs; those of 8 bits cost the reading of their headers alone.
        workers: threads for reading; the default is up to 4.
    """

    def look(path: str | os.PathLike[str]) -> _Use | None:
        path = Path(path)
        try:
            if not states_no_depth(path):
                return None
            picture = decode(path, "image")
        except InputError:
            return None
        if not picture.is_deep or picture.peak != 0xFFFF:
            return None
        return _Use(picture.claim, picture.scaled, picture.used, picture.largest)

    workers = _WORKERS if workers is None else whole_number("workers", workers, 1, MOST_THREADS)
    with ThreadPoolExecutor(workers) as pool:
        found = [use for use in pool.map(look, paths) if use is not None]
    silent = [use for use in found if use.claim is None]
    used = reduce(or_, (use.used for use in silent or found), 0)
    if not silent:
        claims = {(use.claim, use.scaled) for use in found}
        if len(claims) != 1:
            return Depth(None, source="no 16-bit file that states no depth")
        claim, scaled = claims.pop()
        assert claim is not None
        return Depth(claim, scaled and not fits_unscaled(used, claim), "stated by the files")
    bits, left = alignment(used)
    largest = max(use.largest for use in silent)
    number = len(silent)
    files = f"{count(number, 'file')} that {'states' if number == 1 else 'state'}"
    return Depth(bits, left, f"largest value {largest} of {files} no depth", free_bits(used))


class _Use(NamedTuple):
    """What the samples of one 16-bit file use: see :class:`Picture`."""

    claim: int | None
    scaled: bool
    used: int
    largest: int
