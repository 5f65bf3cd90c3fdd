"""What was judged, line by line: it tells after a restart what is done, whatever ended the run."""

from __future__ import annotations

import bisect
import hashlib
import json
import threading
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from fastalign.engine.lines import Lines
from fastalign.engine.table import encode
from fastalign.errors import InputError

JOURNAL = "verdicts.jsonl"
PHOTOGRAPH, NOTIFIED = "photograph", "notified"
_DIGEST_BYTES = 8


@dataclass(frozen=True)
class Arrival:
    """A photograph in the watched folder: a file that is written again is another one.

    Attributes:
        name: its path relative to the folder, with slashes.
        size: bytes.
        mtime_ns: time of its last change in nanoseconds, as its file system tells it.
    """

    name: str
    size: int
    mtime_ns: int

    @property
    def key(self) -> str:
        """What stands for it in a journal."""
        return key_of(f"{self.name}\0{self.size}\0{self.mtime_ns}")

    def record(self) -> dict[str, Any]:
        """As lines of the journal name it."""
        about = {"path": self.name, "size": self.size, "mtime_ns": self.mtime_ns}
        return {**about, "key": self.key}


def key_of(text: str) -> str:
    """64 bits of a digest, in hexadecimal."""
    return hashlib.blake2b(encode(text), digest_size=_DIGEST_BYTES).hexdigest()


class Journal:
    """A file of JSON lines that only grows, each of them on the disk when it is added.

    Of every photograph eight bytes stay in memory. Safe for several threads.

    Args:
        path: the file; gone on with where it exists.
        replay: given each line that there is.

    Attributes:
        photographs: how many have a line.
        unnotified: lines that somebody should be told of and, by the file as it was found, was not,
            each with the ways that are left; None: all.

    Raises:
        InputError: it cannot be read or written, or a line of it is damaged.
    """

    def __init__(self, path: Path, replay: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._known = array("Q")
        # Opened first: that removes a last line that was cut short.
        self._lines = Lines(path, keep=True, durable=True)
        waiting: dict[int, tuple[dict[str, Any], list[str] | None]] = {}
        known: list[int] = []
        for line in _read(path):
            if line["event"] == PHOTOGRAPH:
                known.append(int(line["key"], 16))
            if line.get("notify"):
                waiting[int(line["key"], 16)] = line, None
            elif line["event"] == NOTIFIED:
                told_of = waiting.pop(int(line["key"], 16), None)
                if told_of is not None and line.get("left"):
                    waiting[int(line["key"], 16)] = told_of[0], line["left"]
            if replay is not None:
                replay(line)
        self._known.extend(sorted(known))
        self.unnotified = list(waiting.values())

    @property
    def photographs(self) -> int:
        return len(self._known)

    def knows(self, key: str) -> bool:
        """Whether the photograph that a key stands for has its line."""
        with self._lock:
            return self._has(int(key, 16))

    def add(self, event: str, about: dict[str, Any]) -> dict[str, Any]:
        """Write a line; returned as it was written.

        Raises:
            InputError: it cannot be written.
        """
        line = {"event": event, "time": now(), **about}
        with self._lock:
            self._write(line)
        return line

    def add_photograph(self, about: dict[str, Any]) -> dict[str, Any] | None:
        """Write the line of a photograph, with its ``key`` and whether somebody is to be told,
        ``notify``; returned as it was written, None where the key has one.

        Raises:
            InputError: it cannot be written.
        """
        line = {"event": PHOTOGRAPH, "time": now(), **about}
        digest = int(line["key"], 16)
        with self._lock:
            if self._has(digest):
                return None
            self._write(line)
            bisect.insort(self._known, digest)
        return line

    def _has(self, digest: int) -> bool:
        place = bisect.bisect_left(self._known, digest)
        return place < len(self._known) and self._known[place] == digest

    def _write(self, line: dict[str, Any]) -> None:
        self._lines.add(encode(json.dumps(line, allow_nan=False) + "\n"))

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


def now() -> str:
    """The time of a line."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


def _read(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                line = json.loads(raw)
                if line["event"] in (PHOTOGRAPH, NOTIFIED) or line.get("notify"):
                    int(line["key"], 16)
                if line["event"] == PHOTOGRAPH:
                    bool(line["notify"])
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{path}: line {number} is none of this journal ({type(error).__name__}: "
                    f"{error}); remove the line, and its photograph is judged again, or give "
                    "another --out."
                ) from error
            yield line
