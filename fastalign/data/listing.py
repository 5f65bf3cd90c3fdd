"""Every file below a folder: used as an image, or passed over for a reason that can be told."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastalign.data.files import UNREADABLE_SUFFIXES, is_hidden, is_image_file, unlistable

HIDDEN = "hidden, or left by a system"
NO_IMAGE = "no image"
UNREADABLE = "of an image format that is not read (convert them to PNG, JPEG or TIFF)"
DEAD_LINK = "a link that leads nowhere"
NO_FILE = "neither file nor folder"
LOOP = "a link back to a folder that holds it"
TWICE = "a link to a folder whose files are listed already"
WRITTEN = "written by `fastalign predict`"

OUTPUT_FOLDERS = ("maps", "masks", "overlays")
"""Folders of pictures in the output folder of ``fastalign predict``."""

_OUTPUT_MARKS = ("predictions.json", "job.json", ".fastalign-run")
_SHOWN = 3


@dataclass(frozen=True)
class PassedOver:
    """A file, or a folder with all that is in it, that is not used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Listing:
    """What lies below a folder.

    Attributes:
        images: the image files, sorted by their path relative to the folder.
        passed_over: everything else.
    """

    images: list[Path]
    passed_over: list[PassedOver]


def list_folder(folder: Path) -> Listing:
    """All files in ``folder`` and below. Links to folders are followed, each folder once.

    Raises:
        InputError: the folder, or one below it, cannot be listed.
    """
    images: list[Path] = []
    passed_over: list[PassedOver] = []
    for path, reason in walk(folder):
        if reason is None:
            images.append(path)
        else:
            passed_over.append(PassedOver(path, reason))
    return Listing(
        sorted(images, key=lambda path: path.relative_to(folder).as_posix()), passed_over
    )


def list_images(folder: Path, *, below: bool = True) -> list[Path]:
    """The image files in ``folder`` and, with ``below``, in the folders below it, sorted by their
    path relative to it; none where it does not exist.

    Raises:
        InputError: the folder, or one below it, cannot be listed.
    """
    if not folder.is_dir():
        return []
    found = [path for path, reason in walk(folder, below=below) if reason is None]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def walk(folder: Path, *, below: bool = True) -> Iterator[tuple[Path, str | None]]:
    """Each file below ``folder`` with None where it is an image, else with the reason why not, and
    each folder that is not entered with the reason for that.

    Raises:
        InputError: the folder, or one below it, cannot be listed.
    """
    return _walk(folder, {os.path.realpath(folder)}, below)


def _walk(folder: Path, entered: set[str], below: bool) -> Iterator[tuple[Path, str | None]]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError as error:
        raise unlistable(folder, error) from error
    folders: list[Path] = []
    for name in names:
        path = folder / name
        if is_hidden(name):
            yield path, HIDDEN
            continue
        try:
            mode = path.stat().st_mode
        except OSError:
            # One with the ending of an image is an image that cannot be read, and is told as such.
            yield path, None if is_image_file(path) else DEAD_LINK
            continue
        if stat.S_ISDIR(mode):
            folders.append(path)
        elif not stat.S_ISREG(mode):
            yield path, NO_FILE
        else:
            yield path, kind_of(path)
    if below:
        is_output = holds_outputs(folder)
        # Links last, so that of a folder and a link to it the folder is entered.
        for path in sorted(folders, key=lambda path: (path.is_symlink(), path.name)):
            real = os.path.realpath(path)
            if is_output and path.name in OUTPUT_FOLDERS:
                yield path, WRITTEN
            elif os.path.join(os.path.realpath(folder), "").startswith(os.path.join(real, "")):
                yield path, LOOP
            elif real in entered:
                yield path, TWICE
            else:
                entered.add(real)
                yield from _walk(path, entered, below)


def holds_outputs(folder: Path) -> bool:
    """Whether ``fastalign predict`` wrote into this folder."""
    return any((folder / name).is_file() for name in _OUTPUT_MARKS)


def kind_of(path: Path) -> str | None:
    """None for an image, by its name or else its first bytes; otherwise why it is none."""
    if is_image_file(path):
        return None
    return UNREADABLE if path.suffix.lower() in UNREADABLE_SUFFIXES else NO_IMAGE


def passed_over_below(
    root: Path, used: Iterable[Path], reasons: dict[Path, str], otherwise: str
) -> list[PassedOver]:
    """What lies below ``root`` and is not among ``used``.

    Args:
        root: the folder.
        used: files that are used, as paths below it.
        reasons: why a file, or all of a folder, is not used; the nearest folder counts.
        otherwise: the reason for an image of which nothing else says why.

    Raises:
        InputError: a folder cannot be listed.
    """
    taken = set(used)
    parents = {parent for path in taken for parent in path.parents}
    found = []
    for path, reason in walk(root):
        if path in taken or path in parents:
            continue
        if reason is None:
            reason = next((reasons[p] for p in (path, *path.parents) if p in reasons), otherwise)
        found.append(PassedOver(path, reason))
    return found


def describe(passed_over: Sequence[PassedOver], root: Path) -> list[str]:
    """One sentence that counts what was passed over, by reason and with examples; none if nothing
    was."""
    if not passed_over:
        return []
    by_reason: dict[str, list[str]] = defaultdict(list)
    for item in passed_over:
        by_reason[item.reason].append(name_within(item.path, root))
    parts = []
    for reason, names in by_reason.items():
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        parts.append(f"{reason} ({len(names)}): {shown}")
    return [f"{root}: {len(passed_over)} not used: {'; '.join(parts)}"]


def name_within(path: Path, root: Path) -> str:
    """A file as a folder names it; one that lies elsewhere by its whole path."""
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
