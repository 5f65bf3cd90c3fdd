"""Take good photographs into a model's file, and keep the file as it was beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fastalign.data import Depth, ImageDataset, Sample, find_photographs
from fastalign.engine.model_file import replace_file, reserve_model
from fastalign.engine.results import Skipped
from fastalign.engine.scoring import stored_depth
from fastalign.errors import InputError
from fastalign.models.progress import NoProgress, Progress
from fastalign.words import none_of

if TYPE_CHECKING:
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
