"""Files that grow by whole lines, whatever happens to the process that writes them."""

from __future__ import annotations

import os
from pathlib import Path

from fastalign.io import unwritable


class Lines:
    """An open file of lines. What was added is there, past any buffer of the process, when
    :meth:`add` returns; a process that is killed leaves whole lines.

    Args:
        path: the file.
        keep: go on behind what it holds, where the default is to replace it. A last line that was
            cut short, as of a machine that lost its power, is removed.
        durable: flush each line to the disk, so that it survives a loss of power.

    Raises:
        InputError: it cannot be written.
    """

    def __init__(self, path: Path, *, keep: bool = False, durable: bool = False) -> None:
        self.path = path
        self._durable = durable
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        try:
            self._descriptor = os.open(path, flags | (0 if keep else os.O_TRUNC), 0o666)
            self._length = _whole(self._descriptor)
            os.ftruncate(self._descriptor, self._length)
            os.lseek(self._descriptor, 0, os.SEEK_END)
        except OSError as error:
            raise unwritable(path, error) from error

    def add(self, line: bytes) -> None:
        """Write one line, or several; each ends with a line break.

        Raises:
            InputError: it cannot be written; the file is then as before.
        """
        try:
            written = os.write(self._descriptor, line)
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
            if self._durable:
                os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, self._length)
            os.lseek(self._descriptor, 0, os.SEEK_END)
            raise unwritable(self.path, error) from error
        self._length += len(line)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _whole(descriptor: int) -> int:
    """Bytes up to the last line break."""
    end = os.fstat(descriptor).st_size
    block = 1 << 16
    while end:
        start = max(0, end - block)
        os.lseek(descriptor, start, os.SEEK_SET)
        found = os.read(descriptor, end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
