"""The images to score, and the names of what is written for them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from fastalign.data import Source, find_photographs


@dataclass(frozen=True)
class Input:
    """An image to score: its file, its name in tables, and the stem of the files written for it."""

    path: Path
    name: str
    stem: Path


def find_inputs(source: Source, outputs: Path | None = None) -> tuple[list[Input], list[str]]:
    """The images that ``source`` stands for, sorted by path, and notes on what was passed over; see
    :func:`fastalign.data.find_photographs`.

    Raises:
        InputError: nothing there, or no image among it.
    """
    found = find_photographs(source, outputs=outputs)
    return named_inputs(found.files, found.root), found.notes


def named_inputs(paths: list[Path], root: Path) -> list[Input]:
    """Output stems mirror the tree below ``root``; where two would meet, the file ending stays."""
    relative = [path.relative_to(root) for path in paths]
    # Compared without case, since the outputs may land on a file system that ignores it.
    stems = Counter(str(name.with_suffix("")).casefold() for name in relative)
    taken: Counter[str] = Counter()
    inputs = []
    for path, name in zip(paths, relative, strict=True):
        stem = name.with_suffix("")
        if stems[str(stem).casefold()] > 1:
            stem = name
        key = str(stem).casefold()
        taken[key] += 1
        if taken[key] > 1:
            stem = stem.with_name(f"{stem.name}~{taken[key]}")
        inputs.append(Input(path, name.as_posix(), stem))
    return inputs
