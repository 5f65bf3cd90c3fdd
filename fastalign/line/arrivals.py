"""Photographs in a folder that others write to: found, and waited for until they are complete."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fastalign.data.files import IMAGE_SUFFIXES, is_hidden
from fastalign.line.journal import Arrival

# Files that are waited for at once; the others are found by a later look.
MOST_WAITING = 4096


def look_for_photographs(folder: Path, apart: str) -> Iterator[Arrival]:
    """The photographs in ``folder`` and below, by their endings, in the order of their names.

    Hidden files and folders are passed over, and links to folders are not followed.

    Args:
        folder: where.
        apart: the real path of a folder that is not entered.

    Raises:
        OSError: the folder cannot be listed. What vanishes meanwhile is none.
    """
    yield from _look(folder, "", apart)


def _look(folder: Path, prefix: str, apart: str) -> Iterator[Arrival]:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if is_hidden(entry.name):
            continue
        name = f"{prefix}{entry.name}"
        try:
            if entry.is_dir(follow_symlinks=False):
                if os.path.realpath(entry.path) != apart:
                    yield from _look(Path(entry.path), f"{name}/", apart)
                continue
            if os.path.splitext(entry.name)[1].lower() not in IMAGE_SUFFIXES:
                continue
            status = entry.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.S_ISREG(status.st_mode):
            yield Arrival(name, status.st_size, status.st_mtime_ns)


@dataclass
class _Waiting:
    arrival: Arrival
    since: float
    due: float


class Settling:
    """Files that are waited for: each is ready when it has stayed as it is for a while.

    Args:
        settle: seconds that size and time of a file must not have changed.
        patience: seconds after which one that cannot be read is no longer waited for.
        clock: seconds from any beginning, never going back.
    """

    def __init__(self, settle: float, patience: float, clock: Callable[[], float]) -> None:
        self._settle, self._patience, self._clock = settle, patience, clock
        self._files: dict[str, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._files)

    def see(self, arrival: Arrival) -> None:
        """A file as it was just found; one that has changed is waited for anew."""
        waiting = self._files.get(arrival.name)
        if waiting is not None and waiting.arrival == arrival:
            return
        if waiting is None and len(self._files) >= MOST_WAITING:
            return
        now = self._clock()
        self._files[arrival.name] = _Waiting(arrival, now, now + self._settle)

    def due(self) -> list[Arrival]:
        """Those whose time has come; look at them again, then take, see or postpone them."""
        now = self._clock()
        return [waiting.arrival for waiting in self._files.values() if waiting.due <= now]

    def next_due(self) -> float | None:
        """Seconds until the next one; None where none is waited for."""
        times = [waiting.due for waiting in self._files.values()]
        return max(0.0, min(times) - self._clock()) if times else None

    def late(self, arrival: Arrival) -> float:
        """Seconds since its time came."""
        return self._clock() - self._files[arrival.name].due

    def take(self, arrival: Arrival) -> None:
        """It is no longer waited for."""
        self._files.pop(arrival.name, None)

    def postpone(self, arrival: Arrival) -> bool:
        """It cannot be read yet; False where it was waited for long enough."""
        waiting = self._files[arrival.name]
        waited = self._clock() - waiting.since
        if waited >= self._patience:
            return False
        # Ever longer pauses: a reader of large files shall not read all the time.
        pause = max(self._settle, 0.05, waited / 2)
        waiting.due = self._clock() + min(pause, self._patience - waited)
        return True


def as_it_is(folder: Path, arrival: Arrival) -> Arrival | None:
    """The same file as it is; None where it is gone.

    Raises:
        OSError: its folder cannot be reached.
    """
    try:
        status = os.stat(folder / arrival.name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Arrival(arrival.name, status.st_size, status.st_mtime_ns)
