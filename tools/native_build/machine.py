"""What this machine builds with: a compiler, torch's headers, cores."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path


class Unavailable(Exception):
    """The native code cannot be built here; the message is the one line that says why."""


def switch(name: str) -> str:
    """Value of a build switch: auto, 0 or 1."""
    value = os.environ.get(name, "auto").lower() or "auto"
    if value not in ("auto", "0", "1"):
        raise SystemExit(f"error: {name}={value!r}; use auto, 0 or 1")
    return value


def jobs() -> int:
    """Parallel compilations: MAX_JOBS, else one per core while each has 1.5 GB of free memory."""
    if os.environ.get("MAX_JOBS"):
        return max(1, int(os.environ["MAX_JOBS"]))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        free = 4 << 30
    return max(1, min(cores or 1, free // (3 << 29)))


def torch_root(lowest: tuple[int, int]) -> Path:
    """Folder of the installed torch, found without importing it."""
    spec = importlib.util.find_spec("torch")
    root = Path(spec.origin).parent if spec and spec.origin else None
    header = "include/torch/csrc/stable/library.h"
    if root is None or not (root / header).exists():
        version = ".".join(map(str, lowest))
        raise Unavailable(f"torch >= {version} with its headers is missing")
    return root


def compiler(flags: Sequence[str]) -> list[str]:
    """A C++ compiler that accepts the flags, as a command line."""
    named = os.environ.get("CXX")
    for name in [named] if named else ["c++", "g++", "clang++"]:
        command = shlex.split(name)
        if shutil.which(command[0]) is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.cpp")
            source.write_text("#include <Python.h>\n#include <atomic>\nint main() { return 0; }\n")
            probe = [*command, *flags, f"-I{sysconfig.get_path('include')}", "-c", source.name]
            result = subprocess.run(probe, cwd=folder, capture_output=True, text=True)
        if result.returncode == 0:
            return command
        said = first_error(result.stderr)
        raise Unavailable(f"'{name}' cannot compile C++20 against Python's headers{said}")
    raise Unavailable(f"no C++ compiler ({named or 'c++, g++ or clang++'}) was found")


def first_error(said: str) -> str:
    """The first line of a compiler's or linker's output that names an error, in brackets."""
    lines = [line.strip() for line in said.splitlines() if "error" in line.lower()]
    return f" ({lines[0][:200]})" if lines else ""
