"""The files of models and checkpoints: one safetensors file each, never a pickle.

A file is an ordinary safetensors file (any safetensors reader opens it) whose metadata has a single
entry, ``fastalign``: canonical JSON with the format name, the format version, the kind of file
(``model`` or ``checkpoint``), the configuration and a CRC-32 of the tensor bytes. The JSON carries
no time and no path, and tensors are laid out in a fixed order, so that equal models are equal
files, byte for byte. Files are written beside their final name and then renamed: a reader sees the
old file or the new one, never half of one.

The writer is ours because safetensors' own builds the whole file in memory and, with more than one
metadata entry, orders them by a random hash. The reader is ours because theirs maps the file: who
writes into it then changes a model that is in use, and who cuts it short ends the process.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from fastalign.errors import ArtifactError, ConfigError
from fastalign.io import atomic_write
from fastalign.storage.header import FORMAT, MODEL, VERSION, Head, read_header

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
_FROM_FILE = {name: dtype for dtype, name in _DTYPES.items()}
_CHUNK = 1 << 24


def write(path: Path, tensors: Mapping[str, torch.Tensor], header: dict[str, Any]) -> None:
    """Write named tensors and a JSON-able header to one file, atomically.

    Args:
        path: the file; an existing one is replaced only once the new one is complete.
        tensors: any names; dtypes float64/32/16, bfloat16, int64/32/16/8, uint8 and bool; any
            device and strides.
        header: ``kind``, one of ``model`` and ``checkpoint``, and what else belongs to the file;
            floats must be finite.

    Raises:
        ConfigError: the header is no JSON, or a tensor has a dtype that the format lacks.
        InputError: ``path`` cannot be written (the message names it and the cause).
    """
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
        for chunk in chunks(value):
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
            for chunk in chunks(tensors[name]):
                file.write(chunk)


def chunks(value: torch.Tensor) -> Iterator[memoryview]:
    """The tensor's bytes in row-major order, a piece at a time; the tensor may be on any device."""
    flat = value.detach().to("cpu").contiguous().reshape(-1)
    if flat.numel() == 0:
        return
    data = flat.view(torch.uint8).numpy().data
    for start in range(0, len(data), _CHUNK):
        yield data[start : start + _CHUNK]


def read(
    path: Path, kind: str, *, mapped: bool = False
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of a file, on the CPU, and its header.

    Args:
        path: the file.
        kind: that it must be of.
        mapped: leave the tensors in the file, whose pages come into memory as they are used and
            are shared with other processes that map it. What is written into the file then changes
            them, and cutting it short ends the process; a file that another is renamed to, as
            :func:`write` does, stays as it was.

    Raises:
        ArtifactError: the file is missing, truncated, damaged, foreign, from a newer version or of
            another kind; the message says which, and what to do.
    """
    head = read_header(path)
    about = head.about
    if about["kind"] != kind:
        raise ArtifactError(
            f"{path}: the file is a fastalign {about['kind']}, a {kind} was expected; "
            + (
                "finish the interrupted fit with --resume and use the model that it writes."
                if kind == MODEL
                else "name the checkpoint (the model's file name with .ckpt)."
            )
        )
    tensors, checksum = _map(path, head) if mapped else _read(path, head)
    if checksum != about.get("crc32"):
        raise ArtifactError(
            f"{path}: the tensors are damaged (their checksum is not the one stored with them), or "
            "the file was written to while it was read; copy the file again from its source or fit "
            "the model again."
        )
    return tensors, about


def _read(path: Path, head: Head) -> tuple[dict[str, torch.Tensor], int]:
    """The tensors in memory of their own, and the checksum of their bytes."""
    tensors: dict[str, torch.Tensor] = {}
    end = checksum = 0
    try:
        with path.open("rb") as file:
            file.seek(head.start)
            for name, entry in sorted(head.entries.items(), key=_offsets):
                begin, until = _offsets((name, entry))
                shape, dtype = entry["shape"], _FROM_FILE[entry["dtype"]]
                # Before a damaged shape asks for more memory than there is.
                if begin != end or until - begin != math.prod(shape) * dtype.itemsize:
                    raise ValueError(f"the table of tensors does not fit {name!r}")
                tensor = torch.empty(shape, dtype=dtype, device="cpu")
                for chunk in chunks(tensor):
                    if file.readinto(chunk) != len(chunk):
                        raise ValueError("the file ends too early")
                    checksum = zlib.crc32(chunk, checksum)
                tensors[name], end = tensor, until
            # What lies behind the last tensor belongs to nobody, and is damage as well.
            checksum = zlib.crc32(file.read(), checksum)
    except (KeyError, IndexError, RuntimeError, TypeError, ValueError, OSError) as error:
        raise _unreadable(path, error) from error
    return tensors, checksum


def _map(path: Path, head: Head) -> tuple[dict[str, torch.Tensor], int]:
    """The tensors where they lie in the file, and the checksum of their bytes."""
    from safetensors import SafetensorError, safe_open

    checksum = 0
    with path.open("rb") as file:
        file.seek(head.start)
        while chunk := file.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in head.entries}, checksum
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise _unreadable(path, error) from error


def _offsets(item: tuple[str, Any]) -> tuple[int, int]:
    begin, end = item[1]["data_offsets"]
    return int(begin), int(end)


def _unreadable(path: Path, error: BaseException) -> ArtifactError:
    return ArtifactError(
        f"{path}: the tensors cannot be read ({first_lines(error)}); "
        "copy the file again from its source or fit the model again."
    )


def first_lines(error: BaseException, lines: int = 3) -> str:
    """What an error says, in short."""
    text = " ".join(line.strip() for line in str(error).splitlines()[:lines])
    return text or type(error).__name__
