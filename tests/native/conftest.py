"""Fixtures of the tests of the native library; inputs come from the op tests' op_support."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

# With importmode=importlib, pytest adds no folder to the import path.
sys.path[:0] = [str(HERE), str(HERE.parent / "ops"), str(HERE.parents[1] / "tools")]

from fastalign.ops import native  # noqa: E402


@pytest.fixture(autouse=True)
def library():
    """The module ``fastalign._C``; without it there is nothing to test here."""
    reason = native.load()
    if reason is not None:
        pytest.skip(reason)
    from fastalign import _C

    return _C


@pytest.fixture
def keep_level(library) -> Iterator[None]:
    """Puts the instruction set back that was in use."""
    before = library.cpu_isa()
    yield
    library.set_cpu_isa(before)
