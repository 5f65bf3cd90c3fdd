"""Fixtures of the tests that run CUDA kernel bodies on the CPU; see harness/cuda_on_cpu.h."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# With importmode=importlib, pytest adds no folder to the import path.
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "ops")]

from cuda_on_cpu_support.builder import compiler  # noqa: E402


@pytest.fixture(autouse=True)
def needs_a_compiler() -> None:
    if compiler() is None:
        pytest.skip("no C++ compiler; set CXX")
