"""The way to ``fastalign.kernels.convolution``, which serves a network's inference on GPUs."""

from __future__ import annotations

import importlib
import importlib.util
import os
from functools import cache
from types import ModuleType

import torch

from fastalign.ops import backends

_NAME = "convolution"


@cache
def _kernels() -> ModuleType | None:
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        return importlib.import_module(f"fastalign.kernels.{_NAME}")
    except (ImportError, OSError, RuntimeError):
        return None


def convolution_kernels(device: torch.device) -> ModuleType | None:
    """The module, or None where it does not serve a device: without Triton, and where the
    reference is forced."""
    interpreted = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")
    if not (interpreted or (device.type == "cuda" and torch.cuda.is_available())):
        return None
    if os.environ.get(backends.ENVIRONMENT) == "reference":
        return None
    return _kernels()
