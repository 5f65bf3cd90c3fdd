"""Whether CUDA kernels are built, with what and for which GPUs."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from native_build.machine import Unavailable, switch

# Of cuDeviceGetAttribute.
_MAJOR, _MINOR = 75, 76


def without_cuda(reason: str) -> None:
    """Go on without CUDA kernels, unless they were asked for by name."""
    if switch("FASTALIGN_BUILD_CUDA") == "1":
        raise SystemExit(f"error: CUDA kernels: {reason}")
    print(f"fastalign: building without CUDA kernels: {reason}", file=sys.stderr, flush=True)


def cuda_architectures(every: str) -> str:
    """Which architectures CUDA kernels are built for; empty, with one line, for none.

    Args:
        every: those of a build that was asked for without naming any.
    """
    wanted, named = switch("FASTALIGN_BUILD_CUDA"), os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    if wanted == "0":
        return ""
    if named.strip():
        cuda_targets(named)
        return named
    if wanted == "1":
        return every
    try:
        capabilities = gpus()
        if not capabilities:
            raise Unavailable("no GPU was found (FASTALIGN_BUILD_CUDA=1 builds them all the same)")
        return own_architectures(capabilities, known_architectures(nvcc()))
    except Unavailable as reason:
        without_cuda(str(reason))
        return ""


def nvcc() -> str:
    """The CUDA compiler."""
    found = shutil.which(os.environ.get("NVCC", "nvcc"))
    if found is None:
        raise Unavailable("nvcc was not found")
    return found


def toolkit(nvcc: str) -> Path:
    """The folder of the CUDA toolkit that ``nvcc`` belongs to; nvcc itself may be a script."""
    said = subprocess.run([nvcc, "-dryrun", "x.o"], capture_output=True, text=True).stderr
    found = re.search(r"_HERE_=(.*)", said)
    return Path(found[1].strip() if found else Path(nvcc).resolve().parent).parent


def gpus() -> list[str]:
    """Compute capabilities of the GPUs that CUDA programs may use here, such as ``9.0``, without
    doubles, ascending; asked of the driver, so that neither torch nor a toolkit is needed."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return []
    count, found = ctypes.c_int(), set()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    for number in range(count.value):
        device, parts = ctypes.c_int(), (ctypes.c_int(), ctypes.c_int())
        failed = driver.cuDeviceGet(ctypes.byref(device), number)
        for part, attribute in zip(parts, (_MAJOR, _MINOR), strict=True):
            failed = failed or driver.cuDeviceGetAttribute(ctypes.byref(part), attribute, device)
        if not failed:
            found.add((parts[0].value, parts[1].value))
    return [f"{major}.{minor}" for major, minor in sorted(found)]


def own_architectures(capabilities: Sequence[str], known: Sequence[str]) -> str:
    """TORCH_CUDA_ARCH_LIST for GPUs of these capabilities.

    Args:
        capabilities: as :func:`gpus` gives them.
        known: what the compiler can make code for, such as ``["8.0", "9.0"]``. For a GPU that it
            does not know it makes what the GPU's driver can translate: PTX of the nearest below.

    Raises:
        Unavailable: the compiler knows none that a GPU here could run.
    """

    def number(text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split(".")))

    chosen = set()
    for capability in capabilities:
        below = [name for name in known if number(name) <= number(capability)]
        if not below:
            raise Unavailable(f"this nvcc makes no code for a GPU of capability {capability}")
        best = max(below, key=number)
        chosen.add(best if best == capability else f"{best}+PTX")
    return ";".join(sorted(chosen, key=lambda name: number(name.removesuffix("+PTX"))))


def known_architectures(nvcc: str) -> list[str]:
    """Capabilities that ``nvcc`` makes code for."""
    said = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True).stdout
    return [f"{a}.{b}" for a, b in re.findall(r"^sm_(\d+)(\d)$", said, re.M)]


def cuda_targets(architectures: str) -> list[str]:
    """nvcc's flags for architectures as TORCH_CUDA_ARCH_LIST names them."""
    flags = []
    for item in re.split(r"[;,\s]+", architectures.strip()):
        found = re.fullmatch(r"(\d+)\.?(\d[af]?)(\+PTX)?", item)
        if found is None:
            raise SystemExit(
                f"error: TORCH_CUDA_ARCH_LIST={architectures!r}: {item!r} is no architecture; "
                'write for example "8.0;9.0+PTX"'
            )
        number, ptx = found[1] + found[2], found[3]
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if ptx:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags
