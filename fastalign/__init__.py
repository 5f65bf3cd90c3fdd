"""Alignment-first anomaly detection on photographs of parts.

``fastalign.FYD`` is the model, ``fastalign.nn`` its layers, ``fastalign.ops`` the fused operators
they stand on. Each is imported when it is first used, so that ``import fastalign.ops`` needs torch
alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastalign import nn, ops
    from fastalign.models.config import FYDConfig
    from fastalign.models.fyd import FYD

__version__ = "0.1.0"

__all__ = ["FYD", "FYDConfig", "__version__", "nn", "ops"]

_SUBMODULES = ("nn", "ops")
_MODEL = {"FYD": "fastalign.models.fyd", "FYDConfig": "fastalign.models.config"}


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"fastalign.{name}")
    if name in _MODEL:
        return getattr(importlib.import_module(_MODEL[name]), name)
    raise AttributeError(f"module 'fastalign' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
