"""Where a run takes place: device, versions, commit, backends."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

from fastalign import ops
from fastalign.engine.environment import package_version, versions

BACKENDS = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}
_LIBRARIES = ("kornia", "torchvision", "anomalib")


def runnable(device: str, wanted: list[str] | None = None) -> tuple[list[str], dict[str, str]]:
    """Our backends that run here, and why the others do not."""
    reasons = ops.available_backends("warp_affine", torch.empty(0, device=device))
    names = wanted or list(BACKENDS[device])
    able = [name for name in names if reasons.get(name, "no such backend") is None]
    absent = {name: reasons.get(name) or "no such backend" for name in names if name not in able}
    return able, absent


def describe(device: str) -> str:
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return f"{models[0] if models else platform.processor()}, {torch.get_num_threads()} threads"


def last_cache_bytes() -> int | None:
    """The CPU's last-level cache as Linux tells it."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        found = re.fullmatch(r"(\d+)([KMG]?)", path.read_text().strip())
        if found:
            sizes.append(int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2]])
    return max(sizes, default=None)


def repository() -> Path | None:
    """The checkout that fastalign is imported from; None where it is installed elsewhere."""
    import fastalign

    root = Path(fastalign.__file__).resolve().parents[1]
    return root if (root / ".git").exists() else None


def commit() -> str | None:
    """The commit of the checkout, with ``+`` where tracked files differ from it."""
    root = repository()
    if root is None:
        return None
    try:
        head = git(root, "rev-parse", "--short=12", "HEAD")
        return head + ("+" if git(root, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def git(root: Path, *arguments: str) -> str:
    """Output of git in ``root``.

    Raises:
        subprocess.CalledProcessError: it failed.
        OSError: there is no git.
    """
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def document(device: str, absent: dict[str, str]) -> dict[str, Any]:
    """A run without rows."""
    libraries = {name: text for name in _LIBRARIES if (text := package_version(name))}
    return {
        "device": describe(device),
        "device_type": device,
        "versions": {**versions(), **libraries},
        "commit": commit(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "last_cache_bytes": last_cache_bytes(),
        "absent": absent,
        "left_out": [],
        "rows": [],
    }
