"""The data set that ships with the project."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path

from fastalign.errors import InputError


@contextmanager
def demo_category(data: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """The folder of the demo's category: ``data`` when given, else the shipped one.

    Raises:
        InputError: this installation has no demo data.
    """
    if data is not None:
        yield Path(data)
        return
    shipped = files("fastalign").joinpath("demo_data")
    if not shipped.is_dir():
        raise InputError(
            "this installation of fastalign has no demo data; give a category with --data DIR, or "
            "install fastalign from its wheel or source."
        )
    with as_file(shipped) as folder:
        inner = [path for path in sorted(folder.iterdir()) if (path / "train").is_dir()]
        yield inner[0] if inner else folder
