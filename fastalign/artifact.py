"""Models and training checkpoints on disk: one safetensors file each, never a pickle.

A file is an ordinary safetensors file (any safetensors reader opens it) whose metadata has a single
entry, ``fastalign``: canonical JSON with the format name, the format version, the kind of file
(``model`` or ``checkpoint``), the configuration and a CRC-32 of the tensor bytes. The JSON carries
no time and no path, and tensors are laid out in a fixed order, so that equal models are equal
files, byte for byte. Files are written beside their final name and then renamed: a reader sees the
old file or the new one, never half of one.

The writer is ours because safetensors' own builds the whole file in memory and, with more than one
metadata entry, orders them by a random hash; reading is left to safetensors.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fastalign.errors import ArtifactError, ConfigError
from fastalign.io import atomic_write

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD

FORMAT = "fastalign"
VERSION = 1
MODEL = "model"
CHECKPOINT = "checkpoint"

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_CHUNK = 1 << 24
# The safetensors reader's own limit; a larger figure in the first eight bytes means a foreign file.
_LONGEST_HEADER = 100_000_000


def save(model: FYD, path: str | os.PathLike[str]) -> None:
    """Write a fitted model to ``path`` (one file, atomically).

    Args:
        model: a fitted :class:`fastalign.FYD`; its ``state_dict()``, ``config`` and
            ``extra_metadata()`` are stored.
        path: the file to write; an existing one is replaced only once the new one is complete.

    Raises:
        ConfigError: the model's metadata cannot be written as JSON.
        InputError: ``path`` cannot be written (the message names it and the cause).
    """
    header = {
        "kind": MODEL,
        "config": dataclasses.asdict(model.config),
        "extra": _finite(model.extra_metadata()),
    }
    _write(Path(path), model.state_dict(), header)


def load(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> FYD:
    """Read a model written by :func:`save`; the result is in evaluation mode on ``device``.

    Raises:
        ArtifactError: the file is missing, truncated, damaged, foreign, from a newer version, or
            its tensors do not fit its configuration; the message says which, and what to do.
    """
    from fastalign.models.fyd import FYD, FYDConfig

    path = Path(path)
    tensors, header = _read(path, MODEL)
    known = {field.name for field in dataclasses.fields(FYDConfig)}
    options = header.get("config")
    if not isinstance(options, dict):
        raise ArtifactError(f"{path}: the model's configuration is missing; fit the model again.")
    unknown = sorted(set(options) - known)
    if unknown:
        raise ArtifactError(
            f"{path}: the model was fitted with options that this fastalign does not know "
            f"({', '.join(unknown)}); update fastalign or fit the model again."
        )
    try:
        config = FYDConfig(**{name: _tuples(value) for name, value in options.items()})
        model = FYD.from_state(config, tensors, header.get("extra") or {})
    except (ConfigError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{path}: the tensors or options in the file do not make up a model "
            f"({_first_lines(error)}); the file is damaged or was edited: fit the model again."
        ) from error
    return model.to(device).eval()


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Metadata of a model or checkpoint, without reading its tensors: format, version, kind,
    config...

    Raises:
        ArtifactError: as :func:`load`, for what can be seen in the header alone.
    """
    return _read_header(Path(path))[0]


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
    _write(Path(path), tensors, {"kind": CHECKPOINT, "meta": dict(meta)})


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what :func:`save_checkpoint` wrote: ``(tensors on the CPU, meta)``.

    The tensors are copies that may be written to. JSON turns tuples into lists and integer keys
    into strings; nothing else changes.

    Raises:
        ArtifactError: as :func:`load`.
    """
    tensors, header = _read(Path(path), CHECKPOINT)
    # Cloned, since tensors that map the file would keep Windows from replacing it.
    return {name: value.clone() for name, value in tensors.items()}, header["meta"]


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
        old, new = _tuples(saved[name]), _tuples(wanted[name])
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            differing += [f"{name}.{line}" for line in differing_settings(old, new)]
        elif old != new:
            differing.append(f"{name} (interrupted run: {saved[name]!r}, now: {wanted[name]!r})")
    return differing


def _write(path: Path, tensors: Mapping[str, torch.Tensor], header: dict[str, Any]) -> None:
    # Largest elements first keeps every tensor aligned to its element size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    entries: dict[str, Any] = {}
    offset = checksum = 0
    for name in names:
        value = tensors[name]
        if value.dtype not in _DTYPES:
            raise ConfigError(
                f"{path}: tensor {name!r} has dtype {value.dtype}, which the file format lacks; "
                f"store one of {', '.join(str(dtype) for dtype in _DTYPES)}."
            )
        end = offset + value.numel() * value.element_size()
        entries[name] = {
            "dtype": _DTYPES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [offset, end],
        }
        offset = end
        for chunk in _chunks(value):
            checksum = zlib.crc32(chunk, checksum)
    about = {"format": FORMAT, "version": VERSION, "crc32": checksum, **header}
    try:
        text = json.dumps(about, sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: the metadata cannot be written as JSON ({error}); "
            "use finite numbers, strings, booleans, None, lists and dictionaries with string keys."
        ) from error
    document = {"__metadata__": {FORMAT: text}, **entries}
    head = json.dumps(document, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with atomic_write(path) as file:
        file.write(len(head).to_bytes(8, "little"))
        file.write(head)
        for name in names:
            for chunk in _chunks(tensors[name]):
                file.write(chunk)


def _chunks(value: torch.Tensor) -> Iterator[memoryview]:
    """The tensor's bytes in row-major order, a piece at a time; the tensor may be on any device."""
    flat = value.detach().to("cpu").contiguous().reshape(-1)
    if flat.numel() == 0:
        return
    data = flat.view(torch.uint8).numpy().data
    for start in range(0, len(data), _CHUNK):
        yield data[start : start + _CHUNK]


def _read(path: Path, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    about, data_start = _read_header(path)
    if about["kind"] != kind:
        raise ArtifactError(
            f"{path}: the file is a fastalign {about['kind']}, a {kind} was expected; "
            + (
                "finish the interrupted fit with --resume and use the model that it writes."
                if kind == MODEL
                else "name the checkpoint (the model's file name with .ckpt)."
            )
        )
    with path.open("rb") as file:
        file.seek(data_start)
        checksum = 0
        while chunk := file.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    if checksum != about.get("crc32"):
        raise ArtifactError(
            f"{path}: the tensors are damaged (their checksum is not the one stored with them); "
            "copy the file again from its source or fit the model again."
        )
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise ArtifactError(
            f"{path}: the tensors cannot be read ({_first_lines(error)}); "
            "copy the file again from its source or fit the model again."
        ) from error


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The ``fastalign`` metadata and the offset of the first tensor byte; checks the size."""
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
    return about, 8 + length


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


def _tuples(value: Any) -> Any:
    """Lists as tuples at every depth: what a dataclass held before JSON."""
    if isinstance(value, (list, tuple)):
        return tuple(_tuples(item) for item in value)
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


def _first_lines(error: BaseException, lines: int = 3) -> str:
    text = " ".join(line.strip() for line in str(error).splitlines()[:lines])
    return text or type(error).__name__
