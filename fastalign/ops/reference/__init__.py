"""The ops in plain PyTorch: they define what every backend computes.

Closed forms without autograd: each op and each backward op is a function of its own, with the
arguments of the schema minus ``backend``. Beside them ``<op>_plain`` says the op in torch's own
ops, for graphs that shall run without fastalign; it equals the op to rounding, writes into no
buffer, asks for no size while it runs, and is differentiated by torch itself. Where torch's own ops
have no second or no forward-mode derivative, ``<op>_derivable`` does without them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from fastalign.ops.schema import stem_of


def _module(stem: str) -> ModuleType:
    return import_module(f"{__name__}.{stem}")


def kernel(op: str) -> Callable[..., Any]:
    """The function that computes ``op``, for example ``"warp_affine_backward"``."""
    return getattr(_module(stem_of(op)), op)


@cache
def plain(stem: str) -> Callable[..., Any]:
    """The public op ``stem`` in torch's own ops."""
    return getattr(_module(stem), f"{stem}_plain")


@cache
def derivable(stem: str) -> Callable[..., Any]:
    """The same in ops that have derivatives of any order, in both modes."""
    return getattr(_module(stem), f"{stem}_derivable", None) or plain(stem)
