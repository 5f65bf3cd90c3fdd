"""Files that belong to the process that has them open, and to nobody once it has ended.

Held by ``flock``, which the system takes back however a process ends. Where a file system has no
locks, a file that is there counts as held.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

if os.name == "posix":
    import fcntl

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def take(path: Path) -> int | None:
    """The descriptor of a new, empty file at ``path`` that is ours until it is closed; None where
    another process holds one there. A file that a process which has ended left there is replaced.

    Raises:
        OSError: no file can be made there.
    """
    for _ in range(2):
        try:
            # Unlike those of tempfile, the permissions follow the umask, as for any file of a user.
            descriptor = os.open(path, _NEW, 0o666)
        except FileExistsError:
            if not remove_unheld(path):
                return None
            continue
        # Between open and lock another process may have taken the file for an abandoned one.
        if _lock(descriptor, without=True) and _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)
    return None


def remove_unheld(path: Path) -> bool:
    """Remove the file at ``path`` unless a process holds it; whether nothing is there any more."""
    if os.name != "posix":
        return not os.path.lexists(path)
    try:
        # Neither a link is followed nor a pipe waited for.
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    try:
        if _lock(descriptor, without=False) and _is_at(descriptor, path):
            with contextlib.suppress(OSError):
                path.unlink()
        return not os.path.lexists(path)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, *, without: bool) -> bool:
    """Hold the file as long as it is open; False if another process does, ``without`` where the
    file system has no locks."""
    if os.name != "posix":
        return without
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return without
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one at ``path``; another process may have put its own there."""
    if os.name != "posix":
        return True
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except OSError:
        return False


@contextlib.contextmanager
def hold(path: Path, refusal: Callable[[str], Exception]) -> Iterator[None]:
    """Hold a hidden file at ``path`` for the time of the block, so that one process at a time does.

    The file says whose it is and is removed at the end; that of a process which was killed is
    taken over. Folders are made for it, and removed again where the block leaves them empty.

    Args:
        path: the file.
        refusal: the error to raise where another process holds it, made from words on which one.

    Raises:
        OSError: no file can be made there.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = take(path)
    if descriptor is None:
        raise refusal(holder(path))
    try:
        with contextlib.suppress(OSError):
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            text = json.dumps({"process": os.getpid(), "host": platform.node(), "since": since})
            os.write(descriptor, text.encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()


def holder(path: Path) -> str:
    """Which process says that it holds the file."""
    try:
        note = json.loads(path.read_text())
        return f"process {note['process']} on {note['host']}, since {note['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
