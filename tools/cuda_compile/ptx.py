"""The PTX of the kernels, and a recorded launch as the race prover wants it described."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import subprocess
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from records.inputs import included

from cuda_compile.launches import Launch
from cuda_compile.toolchain import (
    BUILD,
    FLAGS,
    Named,
    ToolError,
    compiler_version,
    demangled,
    nvcc,
)

ARCHITECTURE = "sm_100a"  # the one whose PTX the prover reads
_SHAPES = {"8": "Bb", "16": "Hh", "32": "Ii", "64": "Qq"}  # unsigned and bits, signed
_USER_SPACE = range(1 << 40, 1 << 47)  # 64-bit arguments of this size are addresses


def compile_ptx(source: Path) -> Path:
    """The PTX of one source; compiled once for each content.

    Raises:
        ToolError: nvcc is missing, or the source does not compile.
    """
    flags = FLAGS[:-1]  # without ptxas's report
    digest = hashlib.sha256(" ".join((*flags, compiler_version())).encode())
    for path in sorted(included([source])):
        digest.update(path.read_bytes())
    target = BUILD / f"{source.stem}.{ARCHITECTURE}.{digest.hexdigest()[:16]}.ptx"
    if not target.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        draft = target.with_suffix(".draft")
        command = [str(nvcc()), *flags, f"-arch={ARCHITECTURE}", "-ptx", str(source)]
        result = subprocess.run([*command, "-o", str(draft)], capture_output=True, text=True)
        if result.returncode != 0:
            raise ToolError(f"{source.name} to PTX:\n{result.stderr[-4000:]}")
        draft.replace(target)
    return target


@cache
def _text(path: Path) -> str:
    return path.read_text()


def named(path: Path, source: str) -> list[Named]:
    """The kernels of a PTX file, which was made of ``source``."""
    symbols = re.findall(r"\.entry (\w+)\(", _text(path))
    names = demangled(symbols)
    return [Named(name, symbol, source) for name, symbol in zip(names, symbols, strict=True)]


@dataclass(frozen=True)
class Entry:
    """One kernel of a PTX file: its parameters and instructions."""

    symbol: str
    parameters: tuple[tuple[str, bool], ...]  # type of each, and whether it is a struct
    body: str


def entry(path: Path, symbol: str) -> Entry:
    found = re.search(rf"\.entry {re.escape(symbol)}\((.*?)\n\)(.*?)\n\}}", _text(path), re.S)
    if found is None:
        raise LookupError(f"{path.name} has no kernel {symbol}")
    parameters = re.findall(r"\.param (?:\.align \d+ )?\.(\w+)[^,\n]*?_param_\d+(\[)?", found[1])
    return Entry(symbol, tuple((kind, bool(array)) for kind, array in parameters), found[2])


@dataclass
class _Fields:
    """Where a kernel reads its struct parameters: (offset, type), of each parameter."""

    known: dict[int, set[tuple[int, str]]] = field(default_factory=dict)
    computed: dict[int, set[tuple[int, str]]] = field(default_factory=dict)  # at run time


_LOAD = re.compile(r"ld\.param\.(?:v(\d)\.)?(\w+)\s+.*?, \[(\S+?)(?:\+(\d+))?\];")
_MOVE = re.compile(r"mov\.[bu]64\s+(%\w+), (\S+);")
_ADD = re.compile(r"add\.s64\s+(%\w+), (%\w+), %\w+;")
_SELECT = re.compile(r"selp\.b64\s+(%\w+), (%\w+), (%\w+),")


def _fields(kernel: Entry) -> _Fields:
    """By following the parameters' addresses through the registers that hold them."""
    at = {f"{kernel.symbol}_param_{n}": n for n in range(len(kernel.parameters))}
    moving: set[str] = set()  # addresses to which a number is added at run time
    fields = _Fields()
    lines = kernel.body.splitlines()
    for line in lines * 2:  # a register may be set below where it is read
        if copied := _MOVE.search(line):
            sources = [copied[2]]
        elif added := _ADD.search(line):
            copied, sources = added, [added[2]]
            moving |= {added[1]} if added[2] in at else set()
        elif chosen := _SELECT.search(line):
            copied, sources = chosen, [chosen[2], chosen[3]]
        else:
            sources = []
        for source in sources:
            if source in at:
                at[copied[1]] = at[source]
                moving |= {copied[1]} if source in moving else set()
        if (load := _LOAD.search(line)) and load[3] in at:
            size = int(re.sub(r"\D", "", load[2])) // 8
            found = fields.computed if load[3] in moving else fields.known
            for n in range(int(load[1] or 1)):
                offset = int(load[4] or 0) + n * size
                found.setdefault(at[load[3]], set()).add((offset, load[2]))
    return fields


def _value(kind: str, data: bytes, offset: int) -> float | int:
    bits = re.sub(r"\D", "", kind)
    if kind.startswith("f"):
        code = {"32": "f", "64": "d"}[bits]
    else:
        code = _SHAPES[bits][kind.startswith("s")]
    return struct.unpack_from("<" + code, data, offset)[0]


def _placed(fields: _Fields, index: int, size: int) -> list[tuple[int, str]]:
    """Fields that do not overlap: the widest of those read at fixed places, then what is left
    behind the first place that is computed at run time."""

    def width(kind: str) -> int:
        return int(re.sub(r"\D", "", kind)) // 8

    wanted = sorted(fields.known.get(index, ()), key=lambda f: (-width(f[1]), f))
    for offset, kind in sorted(fields.computed.get(index, ())):
        step = width(kind)
        wanted += [(at, kind) for at in range(offset, size - step + 1, step)]
    taken: set[int] = set()
    placed = []
    for offset, kind in wanted:
        span = set(range(offset, offset + width(kind)))
        if not span & taken:
            taken |= span
            placed.append((offset, kind))
    return placed


def describe(kernel: Entry, launch: Launch, addresses: bool = False) -> dict[str, object]:
    """A launch in the prover's words: sizes, numbers, and a memory object for each address.

    Args:
        kernel: the kernel.
        launch: how it was launched.
        addresses: give addresses inside structs as the numbers that they are, so that branches on
            alignment are decided; what lies there is then one memory to the prover.
    """
    arguments: list[dict[str, object]] = []
    apart: dict[int, int] = {}  # the same in every run, apart, and aligned as the true ones are
    objects: dict[int, list[dict[str, object]]] = {}
    fields = _fields(kernel)
    for index, (kind, is_struct) in enumerate(kernel.parameters):
        data = launch.arguments[index]
        for offset, of in _placed(fields, index, len(data)) if is_struct else [(0, kind)]:
            place = {"parameter": index, **({"offset": offset} if is_struct else {})}
            value = _value(of, data, offset)
            is_address = isinstance(value, int) and value in _USER_SPACE
            if is_address and not (addresses and is_struct):
                pointer = {**place, "type": "pointer", "space": "global"}
                objects.setdefault(value, []).append(pointer)
                continue
            if is_address:
                value = apart.setdefault(
                    int(value), _USER_SPACE.start + (len(apart) << 32) + int(value) % 256
                )
            arguments.append({**place, "type": of, "value": value})
    return {
        "schema": "spverify.kernel-input/v1",
        "entry": kernel.symbol,
        "launch": {
            "grid_dim": list(launch.grid),
            "block_dim": list(launch.block),
            "cluster_dim": [1, 1, 1],
            "dynamic_shared_bytes": launch.shared,
        },
        "arguments": arguments,
        "declarations": [
            {**pointer, "object": f"memory{n}"}
            for n, pointers in enumerate(objects.values())
            for pointer in pointers
        ],
    }


def fingerprint(path: Path, description: dict[str, object], prover: str) -> str:
    """A name for one question to one release of the prover."""
    told = json.dumps(description, sort_keys=True)
    digest = hashlib.sha256(f"{prover}\0{told}\0".encode())
    digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
