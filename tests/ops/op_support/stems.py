"""The file of every op in this folder, found by the op's name."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

from fastalign.ops.schema import STEMS


def of(stem: str) -> ModuleType:
    """What the tests know of one op: definition, CASES, FUNCTIONS, ONE_OF_EACH, WRONG, LARGE."""
    return import_module(f"op_support.{stem}")


def each() -> Iterator[ModuleType]:
    """The files of all ops."""
    return (of(stem) for stem in STEMS)
