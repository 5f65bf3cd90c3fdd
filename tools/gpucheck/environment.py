"""What the machine is: asked once, before anything is built."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_QUERY = (
    "name,driver_version,compute_cap,memory.total,clocks.sm,clocks.max.sm,clocks.mem,power.limit"
)
_PACKAGES = ("torch", "triton", "numpy", "setuptools", "pytest", "pytest-xdist")


def said_by(command: Sequence[str], limit: float = 20) -> str:
    """Output of a command, empty where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def gpu() -> dict[str, str]:
    """The first GPU as nvidia-smi describes it, empty without one."""
    line = said_by(["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader"])
    values = [value.strip() for value in line.splitlines()[0].split(",")] if line else []
    return dict(zip(_QUERY.split(","), values, strict=False))


def packages() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def nvcc() -> str:
    release = re.search(r"release ([\d.]+)", said_by(["nvcc", "--version"]))
    return release[1] if release else ""


def describe(cores: int) -> dict[str, Any]:
    return {
        "gpu": gpu(),
        "nvcc": nvcc(),
        "compute_sanitizer": shutil.which("compute-sanitizer") or "",
        "python": platform.python_version(),
        "packages": packages(),
        "cores": cores,
        "system": f"{platform.system()} {platform.machine()}",
    }


def architecture(found: dict[str, Any]) -> str | None:
    """``9.0`` as the build wants it: ``90``."""
    capability = found["gpu"].get("compute_cap", "")
    return capability.replace(".", "") if re.fullmatch(r"\d+\.\d+", capability) else None


_PROBE = """
import json, torch
from gpucheck import inplace
from fastalign import ops
from fastalign.ops.schema import SCHEMAS
tensor = torch.empty(0, device={device!r})
found = {{op: ops.available_backends(op, tensor) for op in SCHEMAS}}
from fastalign.ops import native
info = None
if native.load() is None:
    from fastalign import _C
    info = str(getattr(_C, "build_info", lambda: None)())
cuda = torch.version.cuda if torch.cuda.is_available() else None
print("PROBE " + json.dumps({{"backends": found, "build": info, "cuda": cuda}}))
"""


def probe(device: str) -> str:
    """A program that prints which backend can run which op, and why not."""
    return _PROBE.format(device=device)


def probed(text: str) -> dict[str, Any] | None:
    found = re.search(r"^PROBE (.*)$", text, re.M)
    return json.loads(found[1]) if found else None
