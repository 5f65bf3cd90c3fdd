"""The launchers as one more backend of the ops, ``cuda_on_cpu``, for the tests of tests/ops."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from op_support.backends import Backend
from torch import Tensor

from cuda_on_cpu_support.builder import OPS, PLAIN, SANITIZED, Kind, Library, library, op_sources
from cuda_on_cpu_support.kernels import Kernels
from fastalign.ops import backends

NAME = "cuda_on_cpu"
BACKEND = Backend(NAME, "cpu")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

_served: Kernels | None = None


def compiled(kind: Kind, ops: Iterable[str] = OPS) -> dict[str, Path]:
    """The libraries of the checkout by op; ops whose kernels are not written yet have none."""
    return {op: library(sources, kind) for op in ops if (sources := op_sources(op))}


def build(kind: Kind = PLAIN, ops: Iterable[str] = OPS) -> Kernels:
    """The kernels of the checkout. Sanitized ones load where the sanitizers' runtimes are."""
    found = {op: Library(path) for op, path in compiled(kind, ops).items()}
    return Kernels(found, watched=kind is SANITIZED)


def serve(kernels: Kernels) -> Kernels:
    """Let the backend run these kernels from now on."""
    global _served
    _served = kernels
    backends._settled.clear()
    return kernels


def _cannot_run(op: str, tensors: tuple[Tensor, ...]) -> str | None:
    assert _served is not None, "the fixture `kernels` was not asked for"
    if _served.library(op) is None:
        return f"there is no CUDA kernel of {op} yet"
    if tensors[0].dtype == torch.float64:
        return "the CUDA kernels take float32, float16 and bfloat16, given float64"
    return None


def register() -> Callable[[], None]:
    """Add the backend to fastalign.ops; what is returned takes it out again."""
    before = backends.BACKENDS, backends._cannot_run, backends._kernel

    def cannot_run(op: str, backend: str, tensors: tuple[Tensor, ...]) -> str | None:
        return _cannot_run(op, tensors) if backend == NAME else before[1](op, backend, tensors)

    def kernel(op: str, backend: str) -> Callable[..., Any]:
        return getattr(_served, op) if backend == NAME else before[2](op, backend)

    backends.BACKENDS = (*before[0], NAME)
    backends._cannot_run, backends._kernel = cannot_run, kernel

    def unregister() -> None:
        backends.BACKENDS, backends._cannot_run, backends._kernel = before
        backends._settled.clear()

    return unregister
