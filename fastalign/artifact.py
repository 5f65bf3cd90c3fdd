"""Model files and checkpoints by function: what :mod:`fastalign.storage` keeps, as models."""

from __future__ import annotations

import os

import torch

from fastalign.models.fyd import FYD
from fastalign.storage import (
    differing_settings,
    load_checkpoint,
    read_metadata,
    save_checkpoint,
)

__all__ = [
    "differing_settings",
    "load",
    "load_checkpoint",
    "read_metadata",
    "save",
    "save_checkpoint",
]


def save(model: FYD, path: str | os.PathLike[str]) -> None:
    """Write a fitted model to ``path``; see :meth:`fastalign.FYD.save`."""
    model.save(path)


def load(
    path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    *,
    mapped: bool = False,
    precision: str | None = None,
    runtime: str = "auto",
) -> FYD:
    """Read a model; see :meth:`fastalign.FYD.load`."""
    return FYD.load(path, device, mapped=mapped, precision=precision, runtime=runtime)
