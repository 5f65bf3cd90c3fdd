"""Training checkpoints: named tensors and plain data in one file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fastalign.storage import container
from fastalign.storage.header import CHECKPOINT
from fastalign.storage.model_file import tuples


def save_checkpoint(
    path: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor],
    meta: Mapping[str, Any],
) -> None:
    """Write a training checkpoint: named tensors and JSON-able ``meta`` in one file, atomically.

    Args:
        path: the file to write.
        tensors: any names; dtypes float64/32/16, bfloat16, int64/32/16/8, uint8 and bool; any
            device and strides. Random number generator states are uint8 tensors and fit in here.
        meta: JSON-able; floats must be finite.

    Raises:
        ConfigError: ``meta`` is no JSON, or a tensor has a dtype that the format lacks.
        InputError: ``path`` cannot be written.
    """
    container.write(Path(path), tensors, {"kind": CHECKPOINT, "meta": dict(meta)})


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what :func:`save_checkpoint` wrote: ``(tensors on the CPU, meta)``.

    The tensors may be written to. JSON turns tuples into lists and integer keys
    into strings; nothing else changes.

    Raises:
        ArtifactError: the file is missing, truncated, damaged, foreign or from a newer version.
    """
    tensors, header = container.read(Path(path), CHECKPOINT)
    return tensors, header["meta"]


def differing_settings(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Names and both values of the settings that differ, for a refusal to resume.

    Nested mappings are compared key by key (``config.channels``); tuples and lists are the same
    thing.
    """
    differing = []
    for name in sorted(set(saved) | set(wanted)):
        if name not in saved or name not in wanted:
            have = repr(saved[name]) if name in saved else "not set"
            want = repr(wanted[name]) if name in wanted else "not set"
            differing.append(f"{name} (interrupted run: {have}, now: {want})")
            continue
        old, new = tuples(saved[name]), tuples(wanted[name])
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            differing += [f"{name}.{line}" for line in differing_settings(old, new)]
        elif old != new:
            differing.append(f"{name} (interrupted run: {saved[name]!r}, now: {wanted[name]!r})")
    return differing
