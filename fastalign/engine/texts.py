"""Files of text that a run leaves in the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fastalign.engine.table import encode
from fastalign.io import atomic_write


def write_texts(out: Path, contents: Mapping[str, str]) -> dict[str, Path]:
    """Write files into ``out`` in this order; returns their paths by name.

    Each replaces its predecessor only when complete. File names that are no UTF-8 keep their bytes
    in tables (``.csv``), where programs look for them, and nowhere else.

    Raises:
        InputError: one cannot be written.
    """
    files = {name: out / name for name in contents}
    for name, text in contents.items():
        table = name.endswith(".csv")
        with atomic_write(files[name]) as file:
            file.write(encode(text) if table else text.encode("utf-8", "replace"))
    return files
