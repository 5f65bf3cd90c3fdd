"""The images of a collection: a folder, a glob pattern, a list of paths, or Parquet with paths."""

from __future__ import annotations

import os
from pathlib import Path

from fastalign.data import Source
from fastalign.engine.inputs import Input, find_inputs, named_inputs
from fastalign.errors import InputError
from fastalign.words import count

LIST_SUFFIXES = frozenset({".lst", ".txt"})
PARQUET_SUFFIXES = frozenset({".parquet", ".pq"})
_COLUMNS_SHOWN = 8


def list_collection(
    source: Source, *, path_column: str = "path", outputs: Path | None = None
) -> tuple[list[Input], list[str]]:
    """The images that ``source`` stands for, in a fixed order, and notes on what was left out.

    A folder (with its sub-folders), one image or a glob pattern is read as ``fastalign predict``
    does. Of a text file (``.txt``, ``.lst``) every line is the path of an image, of a Parquet file
    or a folder named ``*.parquet`` every row of ``path_column``; relative paths start at the folder
    of the list. Lists keep their order and name what need not exist: such an image gets a row with
    its error.

    Args:
        source: what to read.
        path_column: column of a Parquet file that holds the paths.
        outputs: the output folder, whose pictures are no input.

    Returns:
        inputs with absolute paths; sentences about entries that named an image again, and about
        files that are no images, with the reasons.

    Raises:
        InputError: nothing there, a list that cannot be read, or no image in it.
    """
    path = Path(source) if isinstance(source, (str, os.PathLike)) else None
    suffix = "" if path is None else path.suffix.lower()
    if path is not None and suffix in PARQUET_SUFFIXES and path.exists():
        names = _parquet_entries(path, path_column)
    elif path is not None and suffix in LIST_SUFFIXES and path.is_file():
        names = _lines(path)
    else:
        found, notes = find_inputs(source, outputs=outputs)
        return [Input(_absolute(item.path), item.name, item.stem) for item in found], notes
    if not names:
        raise InputError(f"{source}: the list is empty; give it one path of an image in each row.")
    folder = _absolute(path).parent
    paths: dict[Path, str] = {}
    for name in names:
        paths.setdefault(_absolute(folder / name), name)
    root = Path(os.path.commonpath([item.parent for item in paths]))
    inputs = [
        Input(item.path, name, item.stem)
        for item, name in zip(named_inputs(list(paths), root), paths.values(), strict=True)
    ]
    repeated = len(names) - len(inputs)
    if not repeated:
        return inputs, []
    return inputs, [f"{count(repeated, 'entry', 'name')} an image again and will be scored once"]


def _absolute(path: Path) -> Path:
    """Absolute without following links: workers have working folders of their own."""
    return Path(os.path.abspath(path))


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); check its permissions."
        ) from error
    if "\0" in text:
        raise InputError(
            f"{path}: this is no text file; give a list with one path of an image on each line."
        )
    return [line for raw in text.split("\n") if (line := raw.removesuffix("\r")).strip()]


def _parquet_entries(path: Path, column: str) -> list[str]:
    import pyarrow
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path) if path.is_file() else pq.ParquetDataset(path).schema
        if column not in schema.names:
            names = ", ".join(schema.names[:_COLUMNS_SHOWN]) or "none"
            raise InputError(
                f"{path}: there is no column {column!r}, only: {names}; name the one that holds "
                "the paths with --path-column."
            )
        kind = schema.field(column).type
        if pyarrow.types.is_dictionary(kind):
            kind = kind.value_type
        if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
            raise InputError(
                f"{path}: column {column!r} holds {kind}, paths are strings; name another one "
                "with --path-column."
            )
        values = pq.read_table(path, columns=[column]).column(column).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path}: cannot be read as Parquet ({reason}); write it again."
        ) from error
    empty = next((row for row, value in enumerate(values) if not value), None)
    if empty is not None:
        raise InputError(
            f"{path}: row {empty} of column {column!r} holds no path; leave such rows out."
        )
    return values
