"""Writing files so that a reader sees either the old file or the complete new one."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fastalign.errors import InputError

if os.name == "posix":
    import fcntl

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
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary, descriptor = _open_temporary(target)
            file = os.fdopen(descriptor, "wb")
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            try:
                yield file
            except OSError as error:
                # An error of another file (one that the block reads) is not ours to explain.
                if error.filename in (None, str(temporary), str(target)):
                    raise _unwritable(path, error) from error
                raise
            try:
                file.flush()
                os.fsync(file.fileno())
            except OSError as error:
                raise _unwritable(path, error) from error
        finally:
            # What the buffer still holds cannot be written either; the first error is the cause.
            with contextlib.suppress(OSError):
                file.close()
        try:
            with contextlib.suppress(FileNotFoundError):
                temporary.chmod(target.stat().st_mode & 0o7777)
            os.replace(temporary, target)
        except OSError as error:
            raise _unwritable(path, error) from error
        temporary = None
        _sync_folder(target.parent)
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


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
        os.close(descriptor)
        temporary.unlink()
    except OSError as error:
        raise _unwritable(path, error) from error


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
        raise _unwritable(path, error) from error
    return target


def _open_temporary(target: Path) -> tuple[Path, int]:
    """A new, locked file beside ``target`` and its descriptor."""
    prefix = f".{target.name[:40]}."
    _remove_abandoned(target.parent, prefix)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    while True:
        temporary = target.with_name(f"{prefix}{secrets.token_hex(6)}.tmp")
        # Unlike those of tempfile, the permissions follow the umask, as for any file a user makes.
        descriptor = os.open(temporary, flags, 0o666)
        # Between open and lock another process may have taken the file for an abandoned one.
        if _lock(descriptor) and temporary.exists():
            return temporary, descriptor
        os.close(descriptor)
        with contextlib.suppress(OSError):
            temporary.unlink()


def _remove_abandoned(folder: Path, prefix: str) -> None:
    """Remove temporary files whose writer is gone: nobody holds their lock any more."""
    if os.name != "posix":
        return
    # Tidying up is a courtesy: what cannot be removed must not stop the writing.
    with contextlib.suppress(OSError):
        for entry in list(folder.iterdir()):
            if not (entry.name.startswith(prefix) and entry.name.endswith(".tmp")):
                continue
            if len(entry.name) != len(prefix) + len("0123456789ab.tmp") or entry.is_symlink():
                continue
            descriptor = os.open(entry, os.O_WRONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                entry.unlink()
            except BlockingIOError:
                continue
            finally:
                os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Hold the file as long as it is open; False if another process was quicker."""
    if os.name == "posix":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            # A file system without locks: others cannot lock, and so cannot remove, it either.
            return True
    return True


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable, where the system offers it."""
    if os.name == "posix":
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _unwritable(path: str | os.PathLike[str], error: OSError) -> InputError:
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        blocker = f"{error.filename} " if error.filename else "a part of the path "
        reason = f"{blocker}is a file where a folder is needed; choose another path"
    else:
        fallback = f"{error.strerror or error}; choose another place"
        reason = _REMEDIES.get(error.errno or 0, fallback)
    folder = Path(path).parent
    return InputError(f"{path}: cannot be written: {reason.format(folder=folder)}.")
