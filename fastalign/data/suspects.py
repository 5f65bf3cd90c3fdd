"""Masks that would be taken for photographs: found by their names, told by their pixels."""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastalign.data.masks import MARKERS, MASK_FOLDERS, MAYBE_MASK_FOLDERS
from fastalign.data.pillow import DECODING_ERRORS
from fastalign.errors import InputError
from fastalign.words import part_of

if TYPE_CHECKING:
    from PIL.Image import Image

_FEW_COLOURS = 16
_PROBED = 6
_SHOWN = 5
_EXTREME = 0.95
_NEAR = 32
_WHITE = 0.6
_NUMBER = re.compile(r"\d+")
# One of the words as a part of a name: mask_0001, 0001-gt-2.
_MARKED = re.compile(rf"(?<![a-z])(?:{'|'.join(MARKERS)})(?![a-z])", re.IGNORECASE)
_FOLDERS = frozenset(MASK_FOLDERS + MAYBE_MASK_FOLDERS)


class Suspect(NamedTuple):
    """A file that may be a mask, and the photographs that it is named after, if that is why."""

    path: Path
    partners: tuple[Path, ...] = ()


def refuse_masks(files: Sequence[Path], root: Path) -> None:
    """Stop where files that are about to be used as photographs are masks.

    A file is looked at if it lies in a folder named as those of masks are (``ground_truth``,
    ``masks``, ``label`` and so on), or if its name extends that of another one, in the same folder
    or in one beside it. It is a mask if it has no more than 16 colours or hardly any
    pixel between black and white, and the photograph it is named after has more. Of the files that
    are suspected for the same reason a few are decoded, and the others only if all of these are
    masks. Files whose names differ in their numbers alone (``mask_0001.png``, ``0001_bw.png``) are
    looked at together, and are masks where a name says so or two colours are all they have, if
    there are photographs beside them.

    Raises:
        InputError: there are masks.
    """
    found = [suspect for group in _suspects(files, root) for suspect in _masks_among(group)]
    found += _masks_by_series(files, {suspect.path for suspect in found})
    if not found:
        return
    found.sort()
    shown = ", ".join(str(suspect.path) for suspect in found[:_SHOWN])
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    first = found[0]
    reason = (
        f"it lies in the folder {first.path.parent.name!r}"
        if not first.partners
        else f"it is named after {first.partners[0]}"
        if first.path.stem.startswith(first.partners[0].stem)
        else f"it is not of the series of {first.partners[0]}"
    )
    raise InputError(
        f"{part_of(len(found), len(files), 'file', 'look')} like masks and not like photographs: "
        f"{shown}{more} (the first has few values, and {reason}). Give a folder that holds "
        "photographs alone, or move the masks to ground_truth/<defect>/<name of image>_mask.png. "
        "Photographs that really are black and white need names and folders of their own."
    )


def looks_like_mask(path: Path) -> bool:
    """Whether the pixels are those of a mask: at most 16 colours, or, as in a mask that was stored
    as JPEG or has soft edges, 95 % of them nearly black or nearly white, and both."""
    from PIL import Image

    try:
        # Of a very large picture Pillow warns without its name; whoever reads it does it better.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return _has_few_values(image)
    except (*DECODING_ERRORS, MemoryError, Image.DecompressionBombError):
        # The file is told of when it is read.
        return False


def _number_of_colours(path: Path, most: int) -> int | None:
    """How many colours a file has; None where they are more than ``most``, or it cannot be read."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                colours = image.getcolors(most)
    except (*DECODING_ERRORS, MemoryError, Image.DecompressionBombError):
        # The file is told of when it is read.
        return None
    return None if colours is None else len(colours)


def _has_few_values(image: Image) -> bool:
    if image.mode not in ("1", "L", "P", "RGB", "RGBA", "LA"):
        return len(np.unique(np.asarray(image))) <= _FEW_COLOURS
    if image.getcolors(_FEW_COLOURS) is not None:
        return True
    grey = np.asarray(image.convert("L"))
    black, white = (grey <= _NEAR).mean(), (grey >= 255 - _NEAR).mean()
    # A dark photograph has hardly anything but black, yet what it shows is not white.
    return bool(black + white >= _EXTREME and white >= _WHITE * (1 - black))


def _suspects(files: Sequence[Path], root: Path) -> Iterator[list[Suspect]]:
    """Files that may be masks, those in one list for the same reason."""
    groups: dict[tuple[Path, str], list[Suspect]] = defaultdict(list)
    # Names are compared within a folder and with the folders beside it.
    by_place: dict[Path, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in files:
        for place in {path.parent, path.parent.parent if path.parent != root else path.parent}:
            by_place[place][path.stem].append(path)
    for path in files:
        named = {part.casefold() for part in path.relative_to(root.parent).parts[:-1]}
        if not named.isdisjoint(_FOLDERS):
            groups[path.parent, path.suffix].append(Suspect(path))
            continue
        for place in (path.parent, path.parent.parent):
            partners = _partners(path, by_place.get(place, {}))
            if partners:
                rest = path.stem[len(partners[0].stem) :].strip("0123456789")
                groups[path.parent, f"{place}{rest}{path.suffix}"].append(Suspect(path, partners))
                break
    yield from groups.values()


def _masks_by_series(files: Sequence[Path], known: Collection[Path]) -> list[Suspect]:
    """Masks that no photograph's name begins: series of names whose pixels are those of masks."""
    series: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in files:
        if path not in known:
            series[path.parent, _NUMBER.sub("#", path.name)].append(path)
    if len(series) < 2:
        return []
    several = [paths for paths in series.values() if len(paths) > 1]
    found = [paths for paths in several if _is_series_of_masks(paths)]
    masks = {path for paths in found for path in paths}
    others = [paths[0] for paths in series.values() if paths[0] not in masks]
    photograph = next((path for path in others if not looks_like_mask(path)), None)
    if photograph is None:
        return []
    return [Suspect(path, (photograph,)) for path in sorted(masks) if looks_like_mask(path)]


def _is_series_of_masks(paths: Sequence[Path]) -> bool:
    probed = paths[:: -(-len(paths) // _PROBED)]
    if _MARKED.search(paths[0].stem):
        return all(map(looks_like_mask, probed))
    # Without a word that says so, blank ones may be photographs without light.
    numbers = [_number_of_colours(path, 2) for path in probed]
    return None not in numbers and 2 in numbers


def _partners(path: Path, stems: dict[str, list[Path]]) -> tuple[Path, ...]:
    """Files whose stem is the longest beginning of this one's, cut where no number goes on."""
    stem = path.stem
    for length in range(len(stem), 0, -1):
        if length < len(stem) and stem[length].isdigit() and stem[length - 1].isdigit():
            continue
        others = [other for other in stems.get(stem[:length], ()) if other != path]
        if others:
            return tuple(others[:_PROBED])
    return ()


def _masks_among(group: list[Suspect]) -> list[Suspect]:
    step = -(-len(group) // _PROBED)
    probed = group[::step]
    if not all(map(_is_mask, probed)):
        return []
    return [suspect for suspect in group if suspect in probed or _is_mask(suspect)]


def _is_mask(suspect: Suspect) -> bool:
    if not looks_like_mask(suspect.path):
        return False
    return not suspect.partners or not all(map(looks_like_mask, suspect.partners))
