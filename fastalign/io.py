"""Writing files so that a reader sees either the old file or the complete new one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fastalign.errors import InputError
from fastalign.locks import remove_unheld, take

# Processes that write to one name at the same time, at most.
_WRITERS = 1000
_REMEDIES = {
    errno.EACCES: "permission denied; choose another place or change the permissions of {folder}",
    errno.EPERM: "not permitted; choose another place or change the permissions of {folder}",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.ENOSPC: "no space left on the disk; free some space or choose another place",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another place",
    errno.EFBIG: "the file grew beyond the allowed size; raise the limit (ulimit -f) or choose "
    "another file system",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EIO: "the disk reported an error; check it or choose another place",
}


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open ``path`` for writing bytes; it appears, or is replaced, only when the block succeeds.

    The bytes go to a hidden file in the same folder, are flushed to the disk and then take the
    name ``path`` in one step. Folders that are missing are made. If the block raises, or the
    process is interrupted, ``path`` is as it was and the hidden file is removed; one that a killed
    process left behind is removed by the next write to the same name. A symbolic link is followed,
    and a file that is replaced hands on its permissions.

    Raises:
        InputError: the file cannot be written (permissions, read-only, disk full, a folder or a
            device in its place, ...).
    """
    target = _regular_target(path)
    temporary: Path | None = None
    held: int | None = None
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary, held = _open_temporary(target)
            file = os.fdopen(os.dup(held), "wb")
        except OSError as error:
            raise unwritable(path, error) from error
        try:
            try:
                yield file
            except OSError as error:
                # An error of another file (one that the block reads) is not ours to explain.
                if error.filename in (None, str(temporary), str(target)):
                    raise unwritable(path, error) from error
                raise
            try:
                file.flush()
                os.fsync(file.fileno())
            except OSError as error:
                raise unwritable(path, error) from error
        finally:
            # What the buffer still holds cannot be written either; the first error is the cause.
            with contextlib.suppress(OSError):
                file.close()
        try:
            if os.name != "posix":
                # An open file cannot be renamed there, nor is it taken for an abandoned one.
                os.close(held)
                held = None
            with contextlib.suppress(FileNotFoundError):
                temporary.chmod(target.stat().st_mode & 0o7777)
            os.replace(temporary, target)
        except OSError as error:
            raise unwritable(path, error) from error
        temporary = None
        _sync_folder(target.parent)
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        if held is not None:
            os.close(held)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Make sure, before long work, that a file could be written at ``path``.

    Tried for real, with an empty file that is removed again, in the folder of ``path`` or, where
    that does not exist yet, in the nearest folder that does. Nothing is left behind, and no folder
    is made.

    Raises:
        InputError: it could not.
    """
    target = _regular_target(path)
    folder = target.parent
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        temporary, descriptor = _open_temporary(folder / target.name)
        try:
            temporary.unlink()
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unwritable(path, error) from error


def _regular_target(path: str | os.PathLike[str]) -> Path:
    target = Path(os.path.realpath(path))
    try:
        if target.is_dir():
            raise InputError(f"{path}: this is a folder; give the name of a file to write.")
        if target.exists() and not target.is_file():
            raise InputError(
                f"{path}: this is a device or a pipe, which cannot be replaced by a file; give the "
                "name of a file to write."
            )
    except OSError as error:
        raise unwritable(path, error) from error
    return target


def _open_temporary(target: Path) -> tuple[Path, int]:
    """A new file beside ``target`` that is ours, and its descriptor.

    Its name follows from that of ``target``, with a number where several write to it at once: what
    a killed process left is found without a look at all other files of the folder.
    """
    for number in range(_WRITERS):
        temporary = _temporary(target, number)
        descriptor = take(temporary)
        if descriptor is None:
            continue
        # Left by several writers at once, all of them killed.
        beyond = _temporary(target, number + 1)
        while os.path.lexists(beyond) and remove_unheld(beyond):
            number += 1
            beyond = _temporary(target, number + 1)
        return temporary, descriptor
    raise OSError(errno.EEXIST, "too many writers at once", str(temporary))


def _temporary(target: Path, number: int) -> Path:
    mark = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:12]
    return target.with_name(f".{target.name[:40]}.{mark}.{number}.tmp")


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable, where the system offers it."""
    if os.name == "posix":
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def unwritable(path: str | os.PathLike[str], error: OSError) -> InputError:
    """The error to raise where ``path`` cannot be written: cause and remedy in words."""
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        # The system names what it was about to make, not what stands in its way.
        blocker = next((p for p in Path(path).parents if p.exists()), Path(path).parent)
        reason = f"{blocker} is a file where a folder is needed; choose another path"
    else:
        fallback = f"{error.strerror or error}; choose another place"
        reason = _REMEDIES.get(error.errno or 0, fallback)
    folder = Path(path).parent
    return InputError(f"{path}: cannot be written: {reason.format(folder=folder)}.")
