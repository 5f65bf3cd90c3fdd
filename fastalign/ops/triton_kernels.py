"""The Triton kernels ``fastalign.kernels.<op>``: imported when one is first chosen.

A module there defines functions with the names and arguments of the ops of its stem, without
``backend``, and may define ``can_run(op, *tensors) -> str | None`` for limits of its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

from torch import Tensor

from fastalign.ops.schema import stem_of


@cache
def _module(op: str) -> ModuleType | str:
    """The module that holds ``op``, or the reason why there is none."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; pip install triton"
    name = f"fastalign.kernels.{stem_of(op)}"
    try:
        if importlib.util.find_spec(name) is None:
            return f"there is no Triton kernel for {op}"
    except ModuleNotFoundError:
        return "the package fastalign.kernels is not installed; reinstall fastalign"
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        return f"{name} cannot be imported ({type(error).__name__}: {error})"
    return module if hasattr(module, op) else f"there is no Triton kernel for {op}"


def cannot_run(op: str, *tensors: Tensor) -> str | None:
    """Why the Triton kernel cannot serve ``op`` for these tensors, or None."""
    interpreted = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")
    if tensors[0].device.type != "cuda" and not interpreted:
        return f"Triton kernels need CUDA tensors, given {tensors[0].device.type}"
    module = _module(op)
    if isinstance(module, str):
        return module
    limits = getattr(module, "can_run", None)
    return None if limits is None else limits(op, *tensors)


def kernel(op: str) -> Callable[..., Any]:
    """The function that runs ``op``; only after ``cannot_run`` gave None."""
    return getattr(_module(op), op)
