"""What the CUDA compilers make of the kernels; see tools/cuda_compile/toolchain.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# With importmode=importlib, pytest adds no folder to the import path.
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "tools")]

from cuda_compile.machine_code import Code, unpacked  # noqa: E402
from records import checks  # noqa: E402
from records.store import known  # noqa: E402


@pytest.fixture(scope="session")
def codes() -> list[Code]:
    """Every kernel on every chip, as recorded."""
    found = known(checks.MACHINE_CODE)
    return [code for source, rows in found.items() for code in unpacked(source, rows)]
