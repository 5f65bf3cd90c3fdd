"""Compiles CUDA sources with the fiber harness into shared libraries, cached by content.

Every object is named by a hash of its preprocessed source and its flags, so a change compiles
what it touches and nothing else; the libraries lie in ``build/cuda_on_cpu`` of the checkout.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastalign.ops.schema import STEMS

HERE = Path(__file__).resolve().parents[1]
REPOSITORY = HERE.parents[1]
CSRC = REPOSITORY / "csrc"
BUILD = REPOSITORY / "build" / "cuda_on_cpu"

OPS = tuple(STEMS)

_FLAGS = (
    "-std=c++20",
    "-fPIC",
    "-g1",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-fno-tree-sra",  # g++ 12 fails internally on vectors of one 16-bit element
    "-fvisibility=default",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-Wno-unused-parameter",
    "-Werror=return-type",
    "-DFASTALIGN_CUDA_ON_CPU=1",
)


@dataclass(frozen=True)
class Kind:
    """A way to build: its name and the flags that make it."""

    name: str
    flags: tuple[str, ...]


PLAIN = Kind("plain", ("-O1",))
UNOPTIMISED = Kind("unoptimised", ("-O0",))  # compiles fastest, for what runs once
SANITIZED = Kind(
    "sanitized",
    (
        "-O0",  # optimised, the checks take three times as long to compile
        "-fno-omit-frame-pointer",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-fno-sanitize=vptr",
    ),
)


@cache
def compiler() -> str | None:
    """The C++ compiler, or None."""
    name = os.environ.get("CXX", "g++")
    return shutil.which(name)


class BuildError(Exception):
    """A source does not compile; the message is the compiler's."""


def _run(command: list[str]) -> bytes:
    result = subprocess.run(command, capture_output=True)
    if result.returncode != 0:
        raise BuildError(result.stderr.decode(errors="replace")[-4000:])
    return result.stdout


def _place(folder: str, parts: Iterable[bytes], suffix: str) -> Path:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
        digest.update(b"\0")
    path = BUILD / folder / f"{digest.hexdigest()[:24]}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _finish(command: list[str], path: Path) -> None:
    """Run ``command`` with the output moved into place at the end: two sessions may build."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        _run([*command, "-o", str(draft)])
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _object(source: Path, csrc: Path, kind: Kind) -> Path:
    command = [str(compiler()), *_FLAGS, *kind.flags]
    if source.parent.name == "harness":
        command.append("-O2")
    paths = [f"-I{HERE / 'harness'}", f"-I{csrc / 'cuda'}"]
    preprocessed = _run([*command, *paths, "-E", "-x", "c++", str(source)])
    # The same text in a copy of the tree is the same object.
    preprocessed = preprocessed.replace(os.fspath(csrc).encode(), b"csrc")
    path = _place(kind.name, [preprocessed, " ".join(command).encode()], ".o")
    if not path.exists():
        _finish([*command, *paths, "-c", "-x", "c++", str(source)], path)
    return path


def library(sources: Iterable[Path], kind: Kind = PLAIN, csrc: Path = CSRC) -> Path:
    """Compile ``sources`` and the harness into one shared library and give its path.

    Args:
        sources: ``.cu`` and ``.cpp`` files.
        kind: how.
        csrc: the tree whose headers they see; another one for altered kernels.

    Raises:
        BuildError: a source does not compile, or names something that no source has.
    """
    sources = [*sources, *sorted((HERE / "harness").glob("*.cpp"))]
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", 2))) as compilers:
        objects = list(compilers.map(lambda source: _object(source, csrc, kind), sources))
    path = _place(kind.name, [str(o).encode() for o in objects], ".so")
    if not path.exists():
        flags = [*kind.flags, "-shared", "-Wl,-z,defs", "-Wl,-Bsymbolic"]
        _finish([str(compiler()), *flags, *map(str, objects), "-ldl"], path)
    return path


def launchers(csrc: Path = CSRC) -> dict[str, str]:
    """The launchers of csrc/cuda/launchers.h and the struct that each takes."""
    text = (csrc / "cuda" / "launchers.h").read_text(encoding="utf-8")
    return dict(re.findall(r"^Error (\w+)\(const (\w+)& args, Stream stream\);", text, re.M))


def _entry(op: str, csrc: Path) -> Path:
    """C entry points of the launchers ``<op>`` and ``<op>_*``."""
    text = (csrc / "cuda" / "launchers.h").read_text(encoding="utf-8")
    lines = ['#include "entry.h"\n']
    for name, struct in launchers(csrc).items():
        if name == op or name.startswith(f"{op}_"):
            macro = "ENTRY_SCRATCH" if f"{name}_scratch(" in text else "ENTRY"
            lines.append(f"FASTALIGN_{macro}({name}, {struct})\n")
    content = "".join(lines).encode()
    path = _place("entry", [op.encode(), content], ".cpp")
    if not path.exists():
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        draft.write_bytes(content)
        draft.replace(path)
    return path


def op_sources(op: str, csrc: Path = CSRC) -> list[Path]:
    """What an op's library is made of: ``<op>*.cu`` and the entry points; empty without kernels."""
    found = sorted((csrc / "cuda").glob(f"{op}*.cu"))
    return [*found, _entry(op, csrc)] if found else []


class Counts(ctypes.Structure):
    """What the harness counted since it was asked before."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            "launches",
            "blocks",
            "barriers",
            "warp_operations",
            "atomics",
            "float_atomics",
        )
    ]

    def as_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name, _ in self._fields_}


@dataclass(frozen=True)
class Schedule:
    """The order in which threads and blocks run: 0 ascending, 1 descending, 2 random."""

    order: int
    seed: int = 0

    def __str__(self) -> str:
        return ("in order", "reverse", f"random {self.seed}")[self.order]


IN_ORDER, REVERSE = Schedule(0), Schedule(1)
RANDOM = tuple(Schedule(2, seed) for seed in range(1, 6))
SCHEDULES = (IN_ORDER, REVERSE, *RANDOM)


@dataclass(frozen=True)
class Device:
    """The part of a device that launchers plan with."""

    multiprocessors: int
    shared_bytes: int

    def __str__(self) -> str:
        return f"{self.multiprocessors} x {self.shared_bytes // 1024} KiB"


class Library:
    """A loaded library with the harness's controls."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handle = ctypes.CDLL(os.fspath(path))
        self.handle.cuda_on_cpu_schedule.argtypes = [ctypes.c_int, ctypes.c_uint64]
        self.handle.cuda_on_cpu_schedule.restype = None
        self.handle.cuda_on_cpu_device.argtypes = [ctypes.c_int, ctypes.c_int]
        self.handle.cuda_on_cpu_device.restype = None
        self.handle.cuda_on_cpu_launched.restype = ctypes.c_char_p
        self.handle.cuda_on_cpu_counts.restype = Counts

    def schedule(self, schedule: Schedule) -> None:
        self.handle.cuda_on_cpu_schedule(schedule.order, schedule.seed)

    def device(self, device: Device | None = None) -> None:
        """What the launchers see from now on; None: the usual simulated device."""
        device = device or Device(0, 0)
        self.handle.cuda_on_cpu_device(device.multiprocessors, device.shared_bytes)

    def launched(self) -> list[str]:
        """Kernels launched since the last call."""
        return [name for name in self.handle.cuda_on_cpu_launched().decode().split("\n") if name]

    def counts(self) -> Counts:
        return self.handle.cuda_on_cpu_counts()
