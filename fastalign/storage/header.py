"""The head of a file: what it says it is, checked before a tensor is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fastalign.errors import ArtifactError

FORMAT = "fastalign"
VERSION = 1
MODEL = "model"
CHECKPOINT = "checkpoint"

# The safetensors reader's own limit; a larger figure in the first eight bytes means a foreign file.
_LONGEST_HEADER = 100_000_000


class Head(NamedTuple):
    """What stands before the tensors: the ``fastalign`` metadata, the table of tensors by name, and
    the offset of the first tensor byte."""

    about: dict[str, Any]
    entries: dict[str, Any]
    start: int


def read_header(path: Path) -> Head:
    """The head of a file.

    Raises:
        ArtifactError: the file is missing, truncated, damaged, foreign or from a newer version.
    """
    foreign = (
        f"{path}: not a fastalign model ({{reason}}); give the file that `fastalign fit` wrote."
    )
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(8)
            length = int.from_bytes(first, "little")
            if size == 0:
                raise ArtifactError(
                    f"{path}: the file is empty; copy it again or fit the model again."
                )
            if size < 8 or not 2 <= length <= _LONGEST_HEADER:
                # Their first bytes are a length as well; only one that is out of range tells.
                if first.startswith((b"PK", b"\x80")):
                    raise ArtifactError(
                        foreign.format(
                            reason="it looks like a pickled PyTorch file, which is never loaded"
                        )
                    )
                raise ArtifactError(foreign.format(reason="it is no safetensors file"))
            head = file.read(length)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{path}: no such file; fit a model first: fastalign fit DIR --out {path}"
        ) from error
    except IsADirectoryError as error:
        raise ArtifactError(foreign.format(reason="it is a folder")) from error
    except OSError as error:
        raise ArtifactError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions."
        ) from error
    if not head.startswith(b"{"):
        raise ArtifactError(foreign.format(reason="it is no safetensors file"))
    if len(head) < length:
        raise _truncated(path, size, 8 + length)
    try:
        document = json.loads(head)
    except ValueError as error:
        raise ArtifactError(
            f"{path}: the file's header is damaged; copy it again or fit the model again."
        ) from error
    if not isinstance(document, dict):
        raise ArtifactError(foreign.format(reason="it is no safetensors file"))
    about = _about(path, document.pop("__metadata__", None), foreign)
    needed = 8 + length + _data_length(path, document)
    if size < needed:
        raise _truncated(path, size, needed)
    return Head(about, document, 8 + length)


def _about(path: Path, metadata: object, foreign: str) -> dict[str, Any]:
    text = metadata.get(FORMAT) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise ArtifactError(
            foreign.format(reason="it is a safetensors file, but without fastalign's metadata")
        )
    try:
        about = json.loads(text)
    except ValueError as error:
        raise ArtifactError(
            f"{path}: the metadata is damaged; copy the file again or fit the model again."
        ) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ArtifactError(foreign.format(reason="its metadata is of another format"))
    version = about.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ArtifactError(f"{path}: the format version {version!r} is no positive integer.")
    if version > VERSION:
        raise ArtifactError(
            f"{path}: written in format version {version}, this fastalign reads up to version "
            f"{VERSION}; update fastalign (pip install -U fastalign) or fit the model again."
        )
    if about.get("kind") not in (MODEL, CHECKPOINT):
        raise ArtifactError(f"{path}: unknown kind of file {about.get('kind')!r}.")
    return about


def _data_length(path: Path, entries: Mapping[str, Any]) -> int:
    try:
        return max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{path}: the file's table of tensors is damaged; copy it again or fit the model again."
        ) from error


def _truncated(path: Path, size: int, needed: int) -> ArtifactError:
    return ArtifactError(
        f"{path}: the file is truncated ({size} bytes of at least {needed}); "
        "copy it again from its source or fit the model again."
    )
