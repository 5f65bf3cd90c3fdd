"""Calls of every op with every option: one list that generic tests walk over."""

from __future__ import annotations

from op_support.inputs import (
    DTYPES,
    HALVES,
    OTHER_SIZE,
    SHAPE,
    Arguments,
    Inputs,
    accumulation,
    as_tuple,
    exact,
    narrowed,
    short,
)
from op_support.kinds import Case
from op_support.stems import each

__all__ = [
    "CASES",
    "DTYPES",
    "HALVES",
    "OTHER_SIZE",
    "SHAPE",
    "Arguments",
    "Case",
    "Inputs",
    "accumulation",
    "as_tuple",
    "exact",
    "narrowed",
    "short",
]

CASES = [case for module in each() for case in module.CASES]
