"""What the names and first bytes of files and folders say about them."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

from fastalign.errors import InputError

IMAGE_SUFFIXES = frozenset(
    ".avif .bmp .dib .gif .heic .heif .hif .j2k .jfif .jp2 .jpe .jpeg .jpg .mpo .pbm .pcx .pgm "
    ".png .pnm .ppm .tga .tif .tiff .webp".split()
)
"""File endings that mark an image, in lower case; compared without regard to case."""

NORMAL_NAMES = ("good", "ok", "normal")
"""Names of a folder of good images, compared without regard to case."""

UNREADABLE_SUFFIXES = frozenset(
    ".3fr .arw .avifs .bayer .cin .cr2 .cr3 .crw .dcm .dcr .dds .djvu .dng .dpx .emf .eps .erf "
    ".exr .fff .fit .fits .fts .hdr .heics .icns .ico .iiq .jls .jp2k .jpm .jpx .jxs .jxl .jxr "
    ".kdc .mef .mos .mrw .nef .nrw .orf .pam .pef .pfm .psb .psd .qoi .raf .raw .rw2 .sgi .sr2 "
    ".srf .srw .wdp .wmf .x3f .xcf".split()
)
"""File endings of pictures in formats that are not read: camera raw, JPEG XL and so on."""

_OTHER_SUFFIXES = frozenset(
    ".avi .bin .cfg .csv .db .dat .doc .docx .gz .h5 .html .ini .json .lnk .log .md .mkv .mov .mp4 "
    ".npy .npz .pcd .pdf .pkl .ply .py .svg .tar .toml .txt .xls .xlsx .xml .yaml .yml .zip".split()
)
_SIGNATURES = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"BM",
    b"II*\x00",
    b"MM\x00*",
    b"II+\x00",
    b"MM\x00+",
    b"GIF8",
    b"\x00\x00\x00\x0cjP  ",
)
_SYSTEM_NAMES = frozenset(
    "thumbs.db ehthumbs.db desktop.ini __macosx $recycle.bin #recycle @recycle lost+found thumbs "
    "thumbnails".split()
    + ["system volume information"]
)


def is_image_file(path: Path) -> bool:
    """Whether a file counts as an image: by its ending, or, where that says nothing, by its first
    bytes. A file with an image's ending counts even if it turns out to be none, so that it is
    reported and not passed over."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    if suffix in _OTHER_SUFFIXES or suffix in UNREADABLE_SUFFIXES:
        return False
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return False
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError:
        return False
    if head.startswith(b"BM"):
        # Two letters are weak evidence; a bitmap states its own length, too.
        return int.from_bytes(head[2:6], "little") == status.st_size
    return head.startswith(_SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or left behind by a system: the previews of
    a file manager, the other half of a Mac's archive, a waste bin."""
    return name.startswith((".", "@eaDir")) or name.casefold() in _SYSTEM_NAMES


def subfolders(folder: Path) -> list[Path]:
    """The visible folders directly in ``folder``, sorted by name; none where it does not exist.

    Raises:
        InputError: it cannot be listed.
    """
    if not folder.is_dir():
        return []
    try:
        entries = [entry for entry in folder.iterdir() if not is_hidden(entry.name)]
    except OSError as error:
        raise unlistable(folder, error) from error
    return sorted((entry for entry in entries if entry.is_dir()), key=lambda entry: entry.name)


def unlistable(folder: Path, error: OSError) -> InputError:
    """The error of a folder that cannot be listed."""
    return InputError(f"{folder}: cannot be listed: {error.strerror}; check its permissions.")


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
