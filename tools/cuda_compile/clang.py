"""The second compiler: clang's own CUDA front end, device code to PTX.

Clang 19 knows CUDA up to 12; of 13 it misses two headers that nothing here uses, so that empty
ones stand in.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from records.inputs import included

from cuda_compile.toolchain import BUILD, ToolError, toolkit

ARCHITECTURES = ("sm_80", "sm_90")
_FLAGS = ("-x", "cuda", "-std=c++20", "-O1", "-w", "--cuda-device-only", "-S")
_MISSING_HEADERS = ("texture_fetch_functions.h", "curand_mtgp32_kernel.h")
_OLDEST = 19


@cache
def clang() -> str | None:
    """The newest clang that knows sm_90 and C++20 well enough, or None; CLANGXX names another."""
    if os.environ.get("CLANGXX"):
        return shutil.which(os.environ["CLANGXX"])
    for name in (*(f"clang++-{release}" for release in range(30, _OLDEST - 1, -1)), "clang++"):
        if (path := shutil.which(name)) is None:
            continue
        said = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
        release = re.search(r"version (\d+)", said)
        if release is not None and int(release[1]) >= _OLDEST:
            return path
    return None


def _stand_ins() -> Path:
    folder = BUILD / "clang_include"
    folder.mkdir(parents=True, exist_ok=True)
    for name in _MISSING_HEADERS:
        if not (toolkit() / "include" / name).exists():
            (folder / name).touch()
    return folder


def entries(source: Path, architecture: str) -> set[str]:
    """Symbols of the kernels in the PTX that clang makes of a source.

    Raises:
        ToolError: it does not compile.
    """
    digest = hashlib.sha256(" ".join((*_FLAGS, str(clang()), str(toolkit()))).encode())
    for path in sorted(included([source])):
        digest.update(path.read_bytes())
    target = BUILD / f"{source.stem}.clang-{architecture}.{digest.hexdigest()[:16]}.ptx"
    if not target.exists():
        command = [str(clang()), *_FLAGS, f"--cuda-gpu-arch={architecture}"]
        command += [f"--cuda-path={toolkit()}", f"-isystem{_stand_ins()}", str(source)]
        result = subprocess.run([*command, "-o", str(target)], capture_output=True, text=True)
        if result.returncode != 0:
            target.unlink(missing_ok=True)
            raise ToolError(f"clang, {source.name} for {architecture}:\n{result.stderr[-4000:]}")
    return set(re.findall(r"^\s*(?:\.visible |\.weak )?\.entry (\w+)", target.read_text(), re.M))
