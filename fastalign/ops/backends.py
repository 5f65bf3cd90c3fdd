"""Which implementation runs an op: argument, then environment, then the fastest that can.

``reference``  plain PyTorch, any device; it defines the op
``cpu``        native C++ kernels, CPU tensors
``cuda``       native CUDA C++ kernels, CUDA tensors
``triton``     Triton kernels, CUDA tensors (with TRITON_INTERPRET=1 also CPU tensors, for checks)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from fastalign.errors import BackendError, ConfigError
from fastalign.ops import native, plans, reference, triton_kernels
from fastalign.ops.schema import SCHEMAS

BACKENDS = ("reference", "cpu", "cuda", "triton")
ENVIRONMENT = "FASTALIGN_BACKEND"

_AUTOMATIC = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}

Kernel = Callable[..., Any]

# Choices that were made: by (op, backend, device, dtype) where they depend on nothing else, and by
# all that the arguments of a call look like (direct.py).
_settled: dict[Any, Kernel] = {}
# Further backends, for as long as someone serves them: see :func:`added`.
_added: dict[str, Callable[[str], Kernel]] = {}
# Of programs that meet ever new sizes; each takes about a kilobyte.
MOST_SETTLED = 4096


def _cannot_run(op: str, backend: str, tensors: tuple[Tensor, ...]) -> str | None:
    device = tensors[0].device.type
    if backend == "reference" or backend in _added:
        return None
    if backend == "triton":
        return triton_kernels.cannot_run(op, *tensors)
    if device != backend:
        return f"{backend} kernels need tensors on a {backend} device, given {device}"
    return native.cannot_run(op, tensors[0])


@contextmanager
def added(name: str, kernels: Callable[[str], Kernel]) -> Iterator[None]:
    """Let ``backend=name`` run other kernels meanwhile: variants that are measured, or watched.

    Args:
        name: none of :data:`BACKENDS`.
        kernels: gives the kernel of an op: a callable with its arguments, without ``backend``.
    """
    if name in BACKENDS or name in _added:
        raise ValueError(f"there is a backend {name!r} already")
    _added[name] = kernels
    try:
        yield
    finally:
        del _added[name]
        _settled.clear()


def _kernel(op: str, backend: str) -> Kernel:
    if backend in _added:
        return _added[backend](op)
    if backend == "reference":
        return reference.kernel(op)
    return triton_kernels.kernel(op) if backend == "triton" else native.kernel(op)


def available_backends(op: str, *tensors: Tensor) -> dict[str, str | None]:
    """Every backend of an op, with None where it can run and else the reason why it cannot.

    Args:
        op: name of an op, for example ``"warp_affine"`` or ``"warp_affine_backward"``.
        tensors: the op's tensor arguments, at least the first; the device decides most.

    Raises:
        ValueError: no such op, or no tensor.
    """
    if op not in SCHEMAS:
        raise ValueError(f"there is no op {op!r}; expected one of {', '.join(SCHEMAS)}")
    if not tensors:
        raise ValueError("available_backends needs a tensor: its device decides what can run")
    return {backend: _cannot_run(op, backend, tensors) for backend in BACKENDS}


def asked() -> str | None:
    """What the environment asks for: like ``backend``, where that is ``"auto"``."""
    return native.environment(ENVIRONMENT)


def settled(looks: Any) -> Kernel | None:
    """The kernel that :func:`resolve` kept for these looks."""
    return _settled.get(looks)


def resolve(op: str, backend: str, *tensors: Tensor, looks: Any = None) -> Kernel:
    """The kernel that serves ``op``: a callable with the op's arguments, without ``backend``.

    Args:
        op, backend: names.
        tensors: the op's tensor arguments, at least the first.
        looks: of all arguments and :func:`asked`, to keep the choice by, or None.

    Raises:
        ValueError: no backend of that name; ConfigError where the environment names it, or a plan
            that there is not.
        BackendError: the backend was asked for by name and cannot run; the message says why.
    """
    source = "backend"
    if backend == "auto":
        backend = asked() or "auto"
        source = ENVIRONMENT
    key = (op, backend, tensors[0].device, tensors[0].dtype)
    kernel = _settled.get(key)
    if kernel is not None:
        _keep(looks, kernel)
        return kernel
    plans.read_environment()
    if backend == "auto":
        chosen = automatic(op, *tensors)
    elif backend in BACKENDS or backend in _added:
        chosen = backend
        reason = _cannot_run(op, backend, tensors)
        if reason is not None:
            able = [name for name, why in available_backends(op, *tensors).items() if why is None]
            raise BackendError(
                f"{op}: {source} asks for {backend!r}, which cannot run: {reason}. "
                f"Here {', '.join(able)} can."
            )
    else:
        # From the environment it is a setting of whoever runs the program, not of a caller.
        kind = ConfigError if source == ENVIRONMENT else ValueError
        raise kind(f"{op}: {source} is {backend!r}, expected one of auto, {', '.join(BACKENDS)}")
    kernel = _kernel(op, chosen)
    # Triton kernels may have limits by shape, so a choice that passed them by or took one holds for
    # these tensors only.
    depends_on_tensors = chosen == "triton" or (
        backend == "auto" and key[2].type == "cuda" and chosen == "reference"
    )
    if not depends_on_tensors:
        _keep(key, kernel)
    if not depends_on_tensors or key[2].type == "cuda":  # elsewhere Triton's interpreter may go
        _keep(looks, kernel)
    return kernel


def _keep(key: Any, kernel: Kernel) -> None:
    if key is not None:
        if len(_settled) >= MOST_SETTLED:
            _settled.clear()
        _settled[key] = kernel


def automatic(op: str, *tensors: Tensor) -> str:
    """The backend that runs an op where none is asked for."""
    device = tensors[0].device.type
    broken = native.broken() if device in _AUTOMATIC else None
    if broken is not None:
        warnings.warn(f"fastalign: {broken}; slower code takes its place.", stacklevel=2)
    for backend in _AUTOMATIC.get(device, ()):
        if _cannot_run(op, backend, tensors) is None:
            return backend
    return "reference"
