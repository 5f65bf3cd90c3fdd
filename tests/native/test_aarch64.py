"""Every source but the Python module compiles for 64-bit ARM, without a warning."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from native_support import CSRC, build_settings, kernel_sources

CROSS = "aarch64-linux-gnu-g++"

pytestmark = pytest.mark.skipif(
    shutil.which(CROSS) is None, reason=f"no {CROSS} (Debian: g++-aarch64-linux-gnu)"
)

# Code is made, since vectors are lowered only then; unoptimised, since that is many times quicker.
FLAGS = [*build_settings().CXX_FLAGS, "-O0", "-Werror", "-c"]


@pytest.fixture(autouse=True)
def library() -> None:
    """Not needed here, so its absence is no reason to skip."""


def compile_for_arm(source: Path, target: Path, *flags: str) -> None:
    done = subprocess.run(
        [CROSS, *FLAGS, *flags, str(source), "-o", str(target)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("source", sorted(CSRC.glob("cpu/*.cpp")), ids=lambda path: path.name)
def test_kernels(source, tmp_path):
    level = ["-DFASTALIGN_ISA=isa_baseline"] if source in kernel_sources() else []
    compile_for_arm(source, tmp_path / "kernel.o", *level)


@pytest.mark.parametrize("header", sorted(CSRC.glob("common/*.h")), ids=lambda path: path.name)
def test_common_headers_stand_alone(header, tmp_path):
    source = tmp_path / "alone.cpp"
    source.write_text(f'#include "{header}"\n')
    compile_for_arm(source, tmp_path / "alone.o")


def test_torch_side(tmp_path):
    """Those of CUDA too: ARM machines with a GPU are common. As one source, since reading torch's
    headers takes longest; so names in their anonymous namespaces differ."""
    major, minor = build_settings().TORCH_TARGET
    flags = [
        f"-DTORCH_TARGET_VERSION=0x{major:02x}{minor:02x}000000000000",
        "-DFASTALIGN_WITH_CUDA",
        f"-isystem{Path(torch.__file__).parent / 'include'}",
    ]
    sources = [*sorted(CSRC.glob("host/*.cpp")), CSRC / "register.cpp"]
    whole = tmp_path / "whole.cpp"
    whole.write_text("".join(f'#include "{source}"\n' for source in sources))
    compile_for_arm(whole, tmp_path / "host.o", *flags)
