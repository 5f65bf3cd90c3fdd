"""The file of every op in this folder: what its kernels may take, the calls that are looked at.

``BUDGETS`` by kernel: registers are those of the hungriest instantiation on any architecture,
rounded up to the next 8, which is how they are given out: more than that is a change that somebody
should decide on. ``PROVED``: case, shape and layout of the launches whose freedom from races is
proved. ``launched()``: the calls of docs/kernels.md. ``compiled()``: calls of the Triton kernels
that are compiled ahead of time, the first of which stands for the op where one is enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

from cuda_compile.kinds import Call
from fastalign.ops.schema import STEMS


def of(stem: str) -> ModuleType:
    """The file of an op."""
    return import_module(f"{__name__}.{stem}")


def each() -> Iterator[tuple[str, ModuleType]]:
    """The ops and their files."""
    return ((stem, of(stem)) for stem in STEMS)


def calls() -> list[Call]:
    """One of each op and direction, in the layouts and dtypes that choose other kernels."""
    return [call for _, stem in each() for call in stem.launched()]
