"""A model's file while it is written anew: kept for one process, and what was there beside it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fastalign.errors import InputError
from fastalign.io import atomic_write, check_writable, unwritable
from fastalign.locks import hold

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD


@contextmanager
def reserve_model(path: Path) -> Iterator[None]:
    """Keep a model's file for this process during the block.

    Raises:
        InputError: a fit or an update writes it, or it cannot be written.
    """
    check_writable(path)
    lock = path.with_name(f".{path.name}.fit")
    try:
        with hold(lock, partial(_busy, path)):
            yield
    except OSError as error:
        if error.filename == str(lock):
            raise unwritable(path, error) from error
        raise


def replace_file(model: FYD, path: Path) -> Path | None:
    """Write a model to a file and keep what was there beside it; returns where, None where there
    was nothing. Whatever happens, a whole file is at ``path``.

    Raises:
        InputError: it cannot be written.
    """
    backup = None
    if path.exists():
        backup = _free(path)
        try:
            # Another name of the same file, which the new one then does not replace.
            os.link(path, backup)
        except FileExistsError:
            return replace_file(model, path)
        except OSError:
            _copy(path, backup)
    try:
        model.save(path)
    except BaseException:
        if backup is not None:
            with suppress(OSError):
                backup.unlink()
        raise
    return backup


def _copy(path: Path, backup: Path) -> None:
    try:
        with atomic_write(backup) as file, open(path, "rb") as source:
            shutil.copyfileobj(source, file)
    except OSError as error:
        raise unwritable(backup, error) from error


def _free(path: Path) -> Path:
    number = 1
    while (backup := path.with_name(f"{path.stem}.before-{number}{path.suffix}")).exists():
        number += 1
    return backup


def _busy(path: Path, who: str) -> InputError:
    return InputError(
        f"{path}: another fit or update writes this model ({who}); wait for its end, or give "
        "another --out."
    )
