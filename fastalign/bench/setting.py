"""Where a run takes place: device, versions, commit, backends."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from fastalign import ops
from fastalign.engine.environment import package_version, versions
from fastalign.load import Load, LoadMeter
from fastalign.ops.plans import describe as describe_plan

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


def command(arguments: Sequence[str] | None = None) -> str:
    """The command line of this process, programs by their name or their place in the checkout."""
    program, *rest = sys.argv if arguments is None else arguments
    path, root = Path(program), repository()
    if path.name == "__main__.py":
        start = ["python", "-m", path.parent.name]
    elif path.suffix == ".py":
        inside = root is not None and path.resolve().is_relative_to(root)
        shown = path.resolve().relative_to(root) if root and inside else Path(path.name)
        start = ["python", shown.as_posix()]
    else:
        start = [path.name]
    return shlex.join([*start, *rest])


def load_before(seconds: float = 0.1) -> Load:
    """The load that a run meets, from a little work on all its threads."""
    meter, end = LoadMeter(), time.perf_counter() + seconds
    x = torch.ones(128, 128)
    while time.perf_counter() < end:
        x @ x
    return meter.read()


# Everything that a page of a run shows and that a run without rows has nothing of.
BLANK: dict[str, Any] = {
    "device": None,
    "device_type": None,
    "versions": {},
    "commit": None,
    "command": None,
    "measured": None,
    "load": None,
    "profile": None,
    "forced_plans": "",
    "copy_bytes_per_second": None,
    "threads": None,
    "cores": None,
    "last_cache_bytes": None,
    "absent": {},
    "left_out": [],
    "rows": [],
    "models": [],
    "comparison": None,
}


def described_plans() -> str:
    """The launch plans that are forced from outside, in words."""
    entries = [(k, f, v) for k, fields in ops.forced_plans().items() for f, v in fields.items()]
    return describe_plan(entries)


def document(device: str, absent: dict[str, str]) -> dict[str, Any]:
    """A run without rows: :data:`BLANK`, and what is known before the first of them."""
    libraries = {name: text for name in _LIBRARIES if (text := package_version(name))}
    return {
        **deepcopy(BLANK),
        "device": describe(device),
        "device_type": device,
        "versions": {**versions(), **libraries},
        "commit": commit(),
        "command": command(),
        "measured": time.strftime("%Y-%m-%d %H:%M", time.gmtime()) + " UTC",
        "load": load_before().to_json(),
        "forced_plans": described_plans(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "last_cache_bytes": last_cache_bytes(),
        "absent": absent,
    }
