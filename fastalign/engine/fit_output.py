"""What a fit finds at its output: a model, another fit, the checkpoint of an interrupted one."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fastalign import storage
from fastalign.engine.model_file import reserve_model
from fastalign.errors import ArtifactError, ConfigError
from fastalign.models.progress import Progress


def checkpoint_path(out: str | os.PathLike[str]) -> Path:
    """Where the checkpoint of a fit to ``out`` lies while it runs."""
    out = Path(out)
    return out.with_name(out.name + ".ckpt")


def reserve_output(stack: ExitStack, out: Path, progress: Progress, resume: bool) -> None:
    """Keep the model file for this fit while ``stack`` is open, and say what it will replace.

    Raises:
        InputError: another fit or an update holds it, or it cannot be written.
    """
    stack.enter_context(reserve_model(out))
    if out.exists():
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(out.stat().st_mtime))
        progress.note(f"{out}: a model of {when} is there, which this fit replaces in the end")
    elif checkpoint_path(out).exists() and not resume:
        progress.note(
            f"{checkpoint_path(out)}: the checkpoint of an interrupted fit is there, which this "
            "one replaces; --resume goes on from it"
        )


def goes_on(checkpoint: Path, settings: dict[str, Any], *, resume: bool, restarted: bool) -> bool:
    """Whether there is a checkpoint to go on from; other settings are refused where the user asked
    for it, and mean a new beginning where a launcher did.

    Raises:
        ConfigError: ``resume``, and the settings are others.
        ArtifactError: the checkpoint is damaged.
    """
    if not (resume or restarted) or not checkpoint.exists():
        return False
    differing = _other_settings(checkpoint, settings)
    if differing and resume:
        raise ConfigError(
            f"{checkpoint}: belongs to a run with other settings: {'; '.join(differing)}. Give the "
            "same settings to continue it, or fit without --resume to start from the beginning."
        )
    return not differing


def _other_settings(checkpoint: Path, settings: dict[str, Any]) -> list[str]:
    saved = storage.read_metadata(checkpoint).get("meta", {}).get("settings")
    if not isinstance(saved, dict):
        raise ArtifactError(
            f"{checkpoint}: the checkpoint does not say which settings it belongs to; "
            "fit without --resume to start from the beginning."
        )
    return storage.differing_settings(saved, settings)
