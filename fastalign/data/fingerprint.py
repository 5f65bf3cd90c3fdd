"""Whether files are the same as in an earlier run."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from fastalign.words import count

_BLOCK = 1 << 14
_READERS = 4


def fingerprint(files: Sequence[Path], blocks: int = 64) -> str:
    """Names, sizes and contents of files in short; dates and the folder they lie in do not count.

    Of a file of up to ``blocks`` times 16 KiB all is read, of a larger one as many blocks,
    spread evenly from its first byte to its last. With 64 blocks 10,000 files cost the reading of
    10 GB at most, less than their decoding does, whatever their size. What that can miss is small:
    another photograph of the same scene differs in every block by its noise; of an uncompressed
    file a block holds one row and more (to 5461 pixels in colour), so that any change taller than a
    64th of the picture is seen; of a compressed file a change moves what comes after it, and seldom
    keeps the size.

    A file that cannot be read counts as such; whoever reads it says why.

    Args:
        files: the files; their order counts.
        blocks: how many blocks, 2 or more.

    Returns:
        ``"<n> files, <digest>"``, the digest 16 hexadecimal digits of SHA-256.
    """
    digest = hashlib.sha256()
    with ThreadPoolExecutor(_READERS, thread_name_prefix="fastalign-digest") as pool:
        contents = pool.map(partial(_content, blocks=blocks), files)
        for path, content in zip(files, contents, strict=True):
            digest.update(os.fsencode(path.name) + b"\0" + content)
    return f"{count(len(files), 'file')}, {digest.hexdigest()[:16]}"


def _content(path: Path, blocks: int) -> bytes:
    """A digest of a file's size and bytes."""
    try:
        # Whoever opens a pipe waits for its other end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            return hashlib.sha256(b"no file").digest()
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256(f"{size}\0".encode())
            if size <= blocks * _BLOCK:
                digest.update(file.read())
            else:
                for number in range(blocks):
                    file.seek(number * (size - _BLOCK) // (blocks - 1))
                    digest.update(file.read(_BLOCK))
    except OSError as error:
        digest = hashlib.sha256(f"unreadable\0{error.errno}".encode())
    return digest.digest()
