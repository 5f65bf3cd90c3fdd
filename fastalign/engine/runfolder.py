"""An output folder belongs to one run: nobody else's tables and pictures are lost or mixed in."""

from __future__ import annotations

import contextlib
import csv
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from fastalign.engine.drift import DRIFT
from fastalign.engine.regions_file import COCO, REGIONS
from fastalign.engine.table import FILES, SCORES
from fastalign.errors import ConfigError, InputError
from fastalign.io import check_writable, unwritable
from fastalign.locks import hold, holder, remove_unheld
from fastalign.words import count

MARKER = ".fastalign-run"
PICTURES = {"map": "maps", "mask": "masks", "overlay": "overlays"}
PREDICTIONS = "predictions.json"
RESULTS = "results.json"
REPORT = "report.html"
# Without the table they belong to, these say that the folder is somebody's.
_OTHERS = (PREDICTIONS, RESULTS, "job.json")


@contextlib.contextmanager
def reserve(out: Path, file: str = SCORES) -> Iterator[None]:
    """Keep ``out`` for this process during the block; the folder is made if it is missing.

    Args:
        out: the folder.
        file: of those that will be written there, the one that an error names.

    Raises:
        InputError: another process writes there, or it cannot be written.
    """
    check_writable(out / file)
    try:
        with hold(out / MARKER, partial(_in_use, out)):
            yield
    except OSError as error:
        if error.filename in (str(out), str(out / MARKER)):
            raise unwritable(out, error) from error
        raise


def _in_use(out: Path, who: str) -> InputError:
    return InputError(
        f"{out}: another run writes into this folder ({who}); wait for its end, or give another "
        "--out."
    )


def describe_earlier(out: Path) -> str | None:
    """What an earlier run left in ``out``, in words; None where there is nothing of that kind."""
    table = out / SCORES
    if table.exists():
        when = _when(table)
        rows = _rows(table)
        if rows is None:
            return f"a {SCORES} of {when}, of another format"
        return f"the scores of {count(len(rows), 'image')}, written {when}"
    for name in _OTHERS:
        if (out / name).exists():
            return f"a {name} of another run"
    for folder in PICTURES.values():
        if any(_walk(out / folder)):
            return f"pictures in {folder}/ without a table"
    return None


def check_free(out: Path, *, overwrite: bool) -> str | None:
    """Look, before long work, whether a new run may write into ``out``; what an earlier one left
    there, in words, or None.

    Raises:
        ConfigError: there are results of an earlier run, and ``overwrite`` is not set; or a table
            that is none of ours.
        InputError: nothing can be written there, or another run writes there.
    """
    if not remove_unheld(out / MARKER):
        raise _in_use(out, holder(out / MARKER))
    check_writable(out / SCORES)
    return _allowed(out, overwrite)


def _allowed(out: Path, overwrite: bool) -> str | None:
    earlier = describe_earlier(out)
    if earlier is None:
        return None
    if (out / SCORES).exists() and _rows(out / SCORES) is None:
        raise ConfigError(
            f"{out}: holds {earlier}, which is not overwritten; move it away, or give another "
            "--out."
        )
    if not overwrite:
        raise ConfigError(
            f"{out}: holds {earlier}; give another --out, or --overwrite to replace these results."
        )
    return earlier


def earlier_evaluation(out: Path) -> str | None:
    """The evaluation that lies in ``out``, in words; None where there is none.

    Raises:
        ConfigError: there are predictions, whose table an evaluation would replace.
    """
    for name in (PREDICTIONS, "job.json"):
        if (out / name).exists():
            raise ConfigError(
                f"{out}: holds predictions ({name}), whose table an evaluation would replace; give "
                "another --out."
            )
    results = out / RESULTS
    return f"the results of an evaluation of {_when(results)}" if results.exists() else None


def begin(out: Path, *, overwrite: bool) -> list[str]:
    """Make ``out``, which is reserved, ready for tables and pictures of a new run.

    Args:
        out: the folder.
        overwrite: remove the tables of an earlier run and the pictures that they list. Other files
            stay.

    Returns:
        What a user should know, in sentences.

    Raises:
        ConfigError: as :func:`check_free`.
        InputError: something cannot be removed or written.
    """
    if _allowed(out, overwrite) is None:
        return []
    _remove(out, _rows(out / SCORES) or [])
    left = sum(1 for folder in PICTURES.values() for _ in _walk(out / folder))
    if not left:
        return []
    return [
        f"{out}: {count(left, 'file')} in {', '.join(f'{name}/' for name in PICTURES.values())} "
        "that the earlier table does not list stay beside the new ones"
    ]


def _when(path: Path) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))


def _rows(table: Path) -> list[dict[str, str]] | None:
    """The rows of a table of ours; None where it is missing or of another format."""
    try:
        with open(table, newline="", encoding="utf-8", errors="surrogateescape") as file:
            reader = csv.DictReader(file)
            # Earlier versions have fewer columns.
            if not {"path", "score", *FILES}.issubset(reader.fieldnames or ()):
                return None
            return list(reader)
    except (OSError, csv.Error):
        return None


def _remove(out: Path, rows: list[dict[str, str]]) -> None:
    """Remove the listed pictures, folders that this leaves empty, what killed writers left, and the
    tables; these last, so that a removal that was cut short can be repeated."""
    try:
        for row in rows:
            for kind in FILES:
                _remove_picture(out, kind, row[kind] or "")
        for name in PICTURES.values():
            for path in list(_walk(out / name)):
                if path.name.startswith(".") and path.suffix == ".tmp":
                    remove_unheld(path)
            for place, _, _ in os.walk(out / name, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(place)
        for name in (REPORT, DRIFT, COCO, REGIONS, RESULTS, PREDICTIONS, SCORES):
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(error.filename or out, error) from error


def _remove_picture(out: Path, kind: str, name: str) -> None:
    path = Path(name)
    # A table can be edited; nothing outside the folders of pictures is ever removed.
    if not name or path.is_absolute() or ".." in path.parts or path.parts[0] != PICTURES[kind]:
        return
    (out / path).unlink(missing_ok=True)
    if kind == "map":
        companion(out / path).unlink(missing_ok=True)


def companion(path: Path) -> Path:
    """The viewable picture beside a map."""
    return path.with_name(f"{path.stem}.png")


def _walk(folder: Path) -> Iterator[Path]:
    for place, _, files in os.walk(folder):
        for name in files:
            yield Path(place) / name
