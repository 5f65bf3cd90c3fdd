"""Which images a worker was at when it died, so that one that kills workers cannot do so for ever.

Ray gives the part of a dead worker to another one. If an image itself is the cause (a decoder that
crashes, more pixels than memory), that goes on without end. So a worker notes what it is about to
do, and the next one sees how often that was the last note.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

DEATHS = 3
"""Deaths at the same images after which they are no longer tried together, or one is given up."""

_ATTEMPT = "attempt"


class Attempts:
    """Notes about one part in a file of its own; a note is one short append, whole or absent.

    Args:
        path: the file; its folder is made when missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._deaths: Counter[str] = Counter()

    def begin(self) -> bool:
        """Read what earlier attempts left, all of which ended in a death, and begin another;
        whether this is the first.

        The first attempt leaves no notes: it reads images ahead, and what it was at says little.
        After a death one batch follows the other, so that the notes tell at which one it was.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = self._path.read_text() if self._path.exists() else ""
        ends = [attempt.split() for attempt in text.split(f"{_ATTEMPT}\n")]
        self._deaths = Counter(notes[-1] for notes in ends if notes)
        self._append(_ATTEMPT)
        return not text

    def note(self, start: int, end: int) -> None:
        """Images ``start`` to ``end`` (exclusive) of the part come next."""
        self._append(f"{start}-{end}")

    def hopeless(self, start: int, end: int) -> bool:
        """Whether workers have died at just these images too often."""
        return self._deaths[f"{start}-{end}"] >= DEATHS

    def close(self) -> None:
        """The part is written: forget the notes."""
        self._path.unlink(missing_ok=True)

    def _append(self, line: str) -> None:
        with open(self._path, "ab", buffering=0) as file:
            file.write(f"{line}\n".encode())
