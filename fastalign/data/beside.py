"""Masks that lie among the photographs they belong to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fastalign.data.masks import separate_masks
from fastalign.data.suspects import looks_like_mask

_PROBED = 6


class Beside(NamedTuple):
    """Files of a folder, told apart.

    Attributes:
        images: photographs.
        marked: masks by their names, such as ``x_mask.png`` beside ``x.png``.
        same: masks of the same name but for the ending, ``x.png`` beside ``x.jpg`` (Real-IAD).
    """

    images: list[Path]
    marked: list[Path]
    same: list[Path]


def tell_apart(files: Sequence[Path]) -> Beside:
    """Photographs and the masks among them.

    Of files that differ in their endings alone those of one ending are masks if, of a few of them,
    all have the pixels of a mask and none of those of the other ending has.
    """
    images, marked = separate_masks(files)
    by_name: dict[Path, list[Path]] = defaultdict(list)
    for path in images:
        by_name[path.with_suffix("")].append(path)
    pairs: dict[tuple[str, str], list[tuple[Path, Path]]] = defaultdict(list)
    for found in by_name.values():
        if len(found) == 2:
            first, second = sorted(found, key=lambda path: path.suffix.casefold())
            pairs[first.suffix.casefold(), second.suffix.casefold()].append((first, second))
    same: set[Path] = set()
    for of_endings in pairs.values():
        probed = of_endings[:: -(-len(of_endings) // _PROBED)]
        for mask in (0, 1):
            if all(looks_like_mask(pair[mask]) for pair in probed) and not any(
                looks_like_mask(pair[1 - mask]) for pair in probed
            ):
                same.update(pair[mask] for pair in of_endings)
    return Beside([path for path in images if path not in same], marked, sorted(same))
