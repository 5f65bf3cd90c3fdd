"""The machine a run takes place on: versions, memory, device."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from fastalign.errors import BackendError, ConfigError, first_line
from fastalign.ops.backends import BACKENDS
from fastalign.ops.plans import read_environment

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "safetensors", "triton", "openvino")
ENVIRONMENT_VARIABLES = {
    "FASTALIGN_BACKEND": "forces a backend for every op: reference, cpu, cuda or triton",
    "FASTALIGN_CPU_ISA": "instruction set of the CPU kernels: baseline, avx2 or avx512",
    "FASTALIGN_PLAN": "launch plans that are forced, for measurements",
    "FASTALIGN_RUNTIME": "what runtime auto stands for: auto, torch or openvino",
    "FASTALIGN_KEEP_RESULTS": "0: memory of large results goes back when they are freed",
    "TRITON_INTERPRET": "1: Triton kernels run on the CPU, for checks",
    "OMP_NUM_THREADS": "CPU threads of torch; `--threads` sets the same for one run",
    "OMP_WAIT_POLICY": "passive: threads that wait for each other sleep; the command's default",
    "CUDA_VISIBLE_DEVICES": "the GPUs that torch may see",
}

_ALLOWED = {
    "FASTALIGN_BACKEND": ("auto", *BACKENDS),
    "FASTALIGN_CPU_ISA": ("baseline", "avx2", "avx512"),
    "FASTALIGN_KEEP_RESULTS": ("0", "1"),
}


def package_version(name: str) -> str | None:
    """Version of an installed distribution, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Versions of Python, fastalign and of the packages that a result can depend on."""
    import fastalign

    found = {"python": platform.python_version(), "fastalign": fastalign.__version__}
    found.update({name: text for name in _PACKAGES if (text := package_version(name))})
    return found


def environment_variables() -> dict[str, dict[str, Any]]:
    """The environment variables that matter, with meaning and present value."""
    return {
        name: {"meaning": meaning, "value": os.environ.get(name)}
        for name, meaning in ENVIRONMENT_VARIABLES.items()
    }


def describe_device(device: torch.device) -> str:
    """A device in words, with the number of threads for a CPU."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"cpu ({_processor()}, {threads} thread{'s' if threads != 1 else ''})"
    return str(device)


def check_variables() -> None:
    """Look whether the environment variables that name something name what there is.

    Raises:
        ConfigError: one does not.
    """
    for name, allowed in _ALLOWED.items():
        value = os.environ.get(name)
        if value and value not in allowed:
            raise ConfigError(
                f"environment variable {name}={value}: use one of {', '.join(allowed)}, or unset "
                "it."
            )
    read_environment()


def open_device(name: str | torch.device) -> torch.device:
    """The torch device called ``name``, after a look that it can be used.

    Raises:
        ConfigError: no such device name, or an environment variable that names nothing.
        BackendError: the device is not there, or this torch was not built for it.
    """
    check_variables()
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"--device {name!r} is no device; use cpu, cuda, cuda:1 or another torch device name."
        ) from error
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        cause = first_line(error)
        raise BackendError(
            f"device {name!r} cannot be used ({cause}); use --device cpu or install a torch build "
            "that supports it (`fastalign info` shows what is here)."
        ) from error
    return device


def peak_rss_mb() -> tuple[float | None, str]:
    """Largest resident memory of this process so far in MB (10^6 bytes).

    The second value names the source of the figure, or the reason why there is none.
    """
    status = Path("/proc/self/status")
    if status.exists():
        # VmHWM begins anew at exec; ru_maxrss would carry over the peak of a larger parent process.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6, "VmHWM of /proc/self/status"
    try:
        import resource
    except ImportError:
        return None, f"the peak memory of a process cannot be read on {sys.platform}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6, "ru_maxrss of getrusage"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
