"""Photographs that somebody has said are good, taken into the model while it goes on judging."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from fastalign.engine.model_file import replace_file, reserve_model
from fastalign.errors import FastalignError, InputError

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD
    from fastalign.models.update import Update


@dataclass(frozen=True)
class Updated:
    """The model from here on, what has changed, and the file that holds it as it was."""

    model: FYD
    update: Update
    backup: Path | None


class ModelUpdater:
    """Updates the file of a model that is being served, on a copy of it.

    Args:
        file: of the model; made before it is read for serving.
        load: reads it as it is served.
    """

    def __init__(self, file: Path, load: Callable[[], FYD]) -> None:
        self._file, self._load = file, load
        self._served = _state(file)

    def __call__(self, images: Sequence[Tensor], names: Sequence[str]) -> Updated:
        """Take the images ``[3,H,W]`` in 0..1 of the model's size into it.

        Raises:
            InputError, ConfigError, ArtifactError: as :meth:`fastalign.FYD.update`, of reading and
                of writing the file; or the file is another one than the one that is served.
        """
        try:
            with reserve_model(self._file):
                if _state(self._file) != self._served:
                    raise InputError(
                        f"{self._file}: it was replaced since this server read it; start the "
                        "server again, and it judges by the new one."
                    )
                model = self._load()
                changed = model.update(images, names=names)
                backup = replace_file(model, self._file)
                self._served = _state(self._file)
                return Updated(model, changed, backup)
        except FastalignError as error:
            # Whoever asks over HTTP is told nothing of this machine's folders.
            folder = f"{self._file.parent}{os.sep}"
            raise type(error)(str(error).replace(folder, "")) from error


def _state(file: Path) -> tuple[int, int, int] | None:
    """What changes with a file that is written again; None where there is none."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
