"""Finding image files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from fastalign.errors import InputError

IMAGE_SUFFIXES = frozenset(
    ".avif .bmp .dib .gif .j2k .jfif .jp2 .jpe .jpeg .jpg .mpo .pbm .pcx .pgm .png .pnm .ppm .tga "
    ".tif .tiff .webp".split()
)
"""File endings that mark an image, in lower case; compared without regard to case."""

NORMAL_NAMES = ("good", "ok", "normal")
"""Names of a folder of good images, compared without regard to case."""

_OTHER_SUFFIXES = frozenset(
    ".csv .db .gz .html .ini .json .log .md .npy .npz .pdf .py .svg .tar .toml .txt .xml .yaml "
    ".yml .zip".split()
)
_SIGNATURES = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"BM",
    b"II*\x00",
    b"MM\x00*",
    b"GIF8",
    b"\x00\x00\x00\x0cjP  ",
)


def is_image_file(path: Path) -> bool:
    """Whether a file counts as an image: by its ending, or, where that says nothing, by its first
    bytes. A file with an image's ending counts even if it turns out to be none, so that it is
    reported and not passed over."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    if suffix in _OTHER_SUFFIXES:
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError:
        return False
    if head.startswith(b"BM"):
        # Two letters are weak evidence; a bitmap states its own length, too.
        return int.from_bytes(head[2:6], "little") == path.stat().st_size
    return head.startswith(_SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def list_images(folder: Path) -> list[Path]:
    """The image files in ``folder`` and below, sorted by their path relative to it.

    Hidden files and folders, and those that archives and storage systems leave behind, do not
    count.

    Raises:
        InputError: the folder, or one below it, cannot be listed.
    """
    found = [path for path in _walk(folder) if is_image_file(path)]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def direct_images(folder: Path) -> list[Path]:
    """The image files in ``folder`` itself, sorted by name; none where it does not exist.

    Raises:
        InputError: it cannot be listed.
    """
    return [entry for entry in _entries(folder) if entry.is_file() and is_image_file(entry)]


def _walk(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise InputError(
            f"{error.filename}: cannot be listed: {error.strerror}; check its permissions."
        ) from error

    for place, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in files:
            if not is_hidden(name):
                yield Path(place) / name


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is passed over."""
    return name.startswith((".", "@eaDir")) or name == "__MACOSX"


def subfolders(folder: Path) -> list[Path]:
    """The visible folders directly in ``folder``, sorted by name; none where it does not exist.

    Raises:
        InputError: it cannot be listed.
    """
    return [entry for entry in _entries(folder) if entry.is_dir()]


def _entries(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    try:
        entries = [entry for entry in folder.iterdir() if not is_hidden(entry.name)]
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be listed: {error.strerror}; check its permissions."
        ) from error
    return sorted(entries, key=lambda entry: entry.name)


def find_folder(folder: Path, names: Iterable[str]) -> Path | None:
    """The folder in ``folder`` that has one of ``names``, whatever its case; None without one.

    Raises:
        InputError: there are several.
    """
    wanted = {name.casefold() for name in names}
    found = [entry for entry in subfolders(folder) if entry.name.casefold() in wanted]
    if len(found) > 1:
        listed = ", ".join(entry.name for entry in found)
        raise InputError(
            f"{folder}: the folders {listed} mean the same here; keep one of them, with all images."
        )
    return found[0] if found else None
