"""Take good photographs into a model's file, and keep the file as it was beside it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fastalign.data import Depth, ImageDataset, Sample, find_photographs
from fastalign.engine.results import Skipped
from fastalign.engine.scoring import stored_depth
from fastalign.errors import InputError
from fastalign.io import atomic_write, check_writable, unwritable
from fastalign.locks import hold
from fastalign.models.progress import NoProgress, Progress
from fastalign.words import none_of

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD
    from fastalign.models.update import Update


@dataclass(frozen=True)
class UpdatedFile:
    """A model's file after an update: where it lies, where the one before it does (None: it was
    written elsewhere, and the one before it is where it was), what has changed, and photographs
    that could not be read."""

    path: Path
    backup: Path | None
    update: Update
    skipped: list[Skipped]


def update_file(
    path: str | os.PathLike[str],
    good: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    keep_threshold: bool = False,
    skip_bad: bool = False,
    device: str | torch.device = "cpu",
    depth: Depth | None = None,
    progress: Progress | None = None,
) -> UpdatedFile:
    """Take the good photographs of a folder into the density of a model's file, see
    :meth:`fastalign.FYD.update`.

    The file is replaced by the updated one when that is complete; the one before it is kept beside
    it, as ``NAME.before-1.safetensors`` and so on.

    Args:
        path: the file that fit wrote.
        good: a folder (with its sub-folders), a photograph or a glob pattern.
        out: where to write instead of ``path``; the file there is replaced, and kept as well.
        keep_threshold: leave the thresholds as they are.
        skip_bad: leave files out that cannot be read, where the default is an error.
        device: where to compute.
        depth: of 16-bit files that state none, in place of the model's.
        progress: told about the course.

    Raises:
        InputError: no photograph that can be taken in, or the file cannot be written.
        ArtifactError: the model's file is damaged.
        ConfigError: as :meth:`fastalign.FYD.update`.
    """
    from fastalign import artifact

    target = Path(path if out is None else out)
    with reserve_model(target):
        model = artifact.load(path, device, runtime="torch")
        found = find_photographs(good)
        samples = [Sample(file, 0, "good", (), "train") for file in found.files]
        depth = depth or stored_depth(model)
        dataset = ImageDataset(samples, model.config.image_size, skip_bad, cache=True, depth=depth)
        if not dataset.samples:
            raise InputError(f"{good}: {none_of(len(samples), 'photograph', 'could be read')}.")
        changed = model.update(
            dataset, keep_threshold=keep_threshold, progress=progress or NoProgress()
        )
        skipped = [Skipped(str(item.path), item.reason) for item in dataset.skipped]
        return UpdatedFile(target, replace_file(model, target), changed, skipped)


@contextmanager
def reserve_model(path: Path) -> Iterator[None]:
    """Keep a model's file for this process during the block.

    Raises:
        InputError: a fit or another update writes it, or it cannot be written.
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
        f"{path}: a fit or another update writes this model ({who}); wait for its end, or give "
        "another --out."
    )
