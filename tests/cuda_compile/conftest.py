"""What the CUDA compilers make of the kernels; see tools/cuda_compile/toolchain.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# With importmode=importlib, pytest adds no folder to the import path.
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "tools")]

from cuda_compile.toolchain import Kernel, kernels, nvcc  # noqa: E402


@pytest.fixture(scope="session")
def compiled():
    """Gives the kernels of an architecture; skips where there is no nvcc, never where there is."""

    def of(architecture: str) -> tuple[Kernel, ...]:
        if nvcc() is None:
            pytest.skip("no CUDA compiler: nvcc is not on the PATH and NVCC is not set")
        return kernels(architecture)

    return of
