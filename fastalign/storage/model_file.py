"""A fitted model in one file, as its rooms: configuration, tensors, metadata."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastalign.errors import ArtifactError, ConfigError
from fastalign.storage import container
from fastalign.storage.header import MODEL
from fastalign.storage.layout import Rooms, in_file, rooms_of


@dataclass(frozen=True)
class StoredModel:
    """What a file holds of a model.

    Attributes:
        config: its options by name.
        rooms: the tensors of each room (:data:`fastalign.storage.layout.ROOMS`) by name.
        metadata: what is known about the fit, JSON-able.
    """

    config: Mapping[str, Any]
    rooms: Rooms
    metadata: Mapping[str, Any]


def write_model(path: str | os.PathLike[str], model: StoredModel) -> None:
    """Write a model to ``path`` (one file, atomically); equal models give equal files.

    Raises:
        ConfigError: configuration or metadata cannot be written as JSON.
        InputError: ``path`` cannot be written (the message names it and the cause).
    """
    header = {"kind": MODEL, "config": model.config, "extra": _finite(model.metadata)}
    container.write(Path(path), in_file(model.rooms), header)


def read_model(
    path: str | os.PathLike[str], options: Collection[str], *, mapped: bool = False
) -> StoredModel:
    """Read what :func:`write_model` wrote; the tensors are on the CPU.

    Args:
        path: the file.
        options: the names of options that the reader knows.
        mapped: leave the tensors in the file, see :func:`fastalign.storage.container.read`.

    Raises:
        ArtifactError: the file is missing, truncated, damaged, foreign, from a newer version or
            fitted with other options; the message says which, and what to do.
    """
    path = Path(path)
    tensors, header = container.read(path, MODEL, mapped=mapped)
    config = header.get("config")
    if not isinstance(config, dict):
        raise ArtifactError(f"{path}: the model's configuration is missing; fit the model again.")
    unknown = sorted(set(config) - set(options))
    if unknown:
        raise ArtifactError(
            f"{path}: the model was fitted with options that this fastalign does not know "
            f"({', '.join(unknown)}); update fastalign or fit the model again."
        )
    config = {name: tuples(value) for name, value in config.items()}
    with making_of(path):
        return StoredModel(config, rooms_of(tensors), header.get("extra") or {})


@contextmanager
def making_of(path: str | os.PathLike[str]) -> Iterator[None]:
    """Names the file where a model cannot be made of what is in it.

    Raises:
        ArtifactError: in place of the errors of configurations and layers.
    """
    try:
        yield
    except (ConfigError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{path}: the tensors or options in the file do not make up a model "
            f"({container.first_lines(error)}); the file is damaged or was edited: fit the model "
            "again."
        ) from error


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Metadata of a model or checkpoint, without reading its tensors: format, version, kind,
    config...

    Raises:
        ArtifactError: as :func:`read_model`, for what can be seen in the header alone.
    """
    return container.read_header(Path(path)).about


def tuples(value: Any) -> Any:
    """Lists as tuples at every depth: what a dataclass held before JSON."""
    if isinstance(value, (list, tuple)):
        return tuple(tuples(item) for item in value)
    return value


def _finite(value: Any) -> Any:
    """``value`` with NaN and infinities as None, which is what JSON can say about them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
