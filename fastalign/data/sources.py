"""The photographs that a path, a pattern or several of them stand for."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from fastalign.data.files import IMAGE_SUFFIXES
from fastalign.data.listing import (
    OUTPUT_FOLDERS,
    WRITTEN,
    Listing,
    PassedOver,
    describe,
    kind_of,
    list_folder,
)
from fastalign.data.suspects import refuse_masks
from fastalign.errors import InputError

Source: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

_SHOWN = 3


@dataclass(frozen=True)
class Photographs:
    """What a source stands for.

    Attributes:
        root: the folder that names are relative to.
        files: the images, sorted by path.
        passed_over: all other files that were come across, each with its reason.
        notes: the same in a sentence.
    """

    root: Path
    files: list[Path]
    passed_over: list[PassedOver]
    notes: list[str]


def find_photographs(source: Source, *, outputs: Path | None = None) -> Photographs:
    """The image files that ``source`` stands for.

    Args:
        source: a folder (with its sub-folders), a file, a glob pattern (``**`` for any depth), or
            several of them, as a shell makes them of a pattern. Brackets that stand in the name of
            an existing file or folder are no pattern.
        outputs: a folder that pictures will be written to; those that are in its folders of
            pictures already are no photographs.

    Raises:
        InputError: nothing there, no image among it, or masks among the images.
    """
    texts = _texts(source)
    if not all(texts) or not texts:
        raise InputError(
            "no path given, or an empty one; give an image, a folder or a glob pattern."
        )
    if len(texts) == 1:
        places = [_look(texts[0], several=False)]
    else:
        places = [_look(os.path.abspath(text), several=True) for text in texts]
    root = places[0][0]
    if len(places) > 1:
        root = Path(os.path.commonpath([base for base, _ in places]))
    own = {os.path.realpath(outputs / name) for name in OUTPUT_FOLDERS} if outputs else set()
    files: dict[Path, None] = {}
    passed_over: dict[Path, PassedOver] = {}
    for _, listing in places:
        for path in listing.images:
            if own and any(os.path.realpath(parent) in own for parent in path.parents):
                passed_over[path] = PassedOver(path, WRITTEN)
            else:
                files[path] = None
        passed_over.update((item.path, item) for item in listing.passed_over)
    notes = describe(list(passed_over.values()), root)
    if not files:
        raise InputError(_nothing(texts, notes))
    ordered = sorted(files)
    explicit = len(ordered) == 1 and not passed_over
    if not explicit:
        refuse_masks(ordered, root)
    return Photographs(root, ordered, list(passed_over.values()), notes)


def _look(text: str, *, several: bool) -> tuple[Path, Listing]:
    """Where one source begins, and what it stands for."""
    path = Path(text)
    if path.is_dir():
        return path, list_folder(path)
    if os.path.lexists(path):
        # One that is named alone is meant, whatever its name; of what a shell has made of a pattern
        # only the images are.
        reason = kind_of(path) if several else None
        return path.parent, _listed(path, reason)
    pattern = _literal_brackets(path)
    if not glob.has_magic(pattern):
        raise InputError(
            f"{text}: no such file or folder; give an image, a folder or a glob pattern."
        )
    images: list[Path] = []
    passed_over: list[PassedOver] = []
    for match in sorted(map(Path, glob.glob(pattern, recursive=True))):
        listing = list_folder(match) if match.is_dir() else _listed(match, kind_of(match))
        images += listing.images
        passed_over += listing.passed_over
    return _fixed_part(path), Listing(images, passed_over)


def _listed(path: Path, reason: str | None) -> Listing:
    return Listing([path], []) if reason is None else Listing([], [PassedOver(path, reason)])


def _literal_brackets(path: Path) -> str:
    """The pattern, with magic characters escaped as far as they are the names of what exists."""
    place, parts = Path(), list(path.parts)
    while parts and (place / parts[0]).exists():
        place /= parts.pop(0)
    return str(Path(glob.escape(str(place)), *parts))


def _fixed_part(pattern: Path) -> Path:
    """The folders of a glob pattern before the first wildcard."""
    place, parts = Path(), list(pattern.parts)
    while parts and (not glob.has_magic(parts[0]) or (place / parts[0]).is_dir()):
        place /= parts.pop(0)
    return place if place.is_dir() else place.parent


def _texts(source: Source) -> list[str]:
    if isinstance(source, (str, os.PathLike)):
        return [os.fspath(source)]
    return [os.fspath(item) for item in source]


def _nothing(texts: list[str], notes: list[str]) -> str:
    """Why no image was found, with what is there in its place."""
    named = ", ".join(texts[:_SHOWN]) + (", ..." if len(texts) > _SHOWN else "")
    if notes:
        return f"{named}: no image found ({notes[0]}); name a folder or a file with images."
    place = _fixed_part(Path(texts[0]))
    there: Counter[str] = Counter()
    if glob.has_magic(texts[0]) and place.is_dir():
        there.update(path.suffix or path.name for path in list_folder(place).images)
    if there:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in there.most_common(_SHOWN))
        return f"{named}: the pattern fits no file; {place} and below hold {kinds}; mend it."
    return (
        f"{named}: no image found; files with these endings are images: "
        f"{' '.join(sorted(IMAGE_SUFFIXES))}"
    )
