"""The native library ``fastalign/_C.abi3.so``: loaded at the first use of an op, not at import.

It registers raw ops in the namespace ``fastalign_native``: the schemas of ``schema.py`` without
``backend`` and with ``size`` as two integers, for CPU tensors and, where it was built with CUDA,
for CUDA tensors.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fastalign.ops.schema import OPS

LIBRARY = Path(__file__).resolve().parent.parent / "_C.abi3.so"
_KEYS = {"cpu": "CPU", "cuda": "CUDA"}

# How a variable of the environment is read; the library's way when it is loaded.
_read: Callable[[str], str | None] = os.environ.get


@cache
def load() -> str | None:
    """Load the library once; the reason why it cannot be used, or None."""
    if not LIBRARY.exists():
        return (
            "the native library was not built; reinstall fastalign where a C++20 compiler is found"
        )
    try:
        torch.ops.load_library(os.fspath(LIBRARY))
    except (OSError, RuntimeError) as error:
        cause = str(error).strip() or type(error).__name__
        return (
            f"the native library {LIBRARY.name} cannot be loaded with torch {torch.__version__} "
            f"({cause}); reinstall fastalign against this torch"
        )
    from fastalign import _C

    global _read
    _read = _C.environment
    return None


def broken() -> str | None:
    """The reason why a library that is there cannot be loaded, or None."""
    return load() if LIBRARY.exists() else None


def cannot_run(op: str, tensor: torch.Tensor) -> str | None:
    """Why the library does not serve ``op`` for ``tensor``, the first of its arguments, or None."""
    return _cannot_run(op, tensor.device, tensor.dtype)


@cache
def _cannot_run(op: str, device: torch.device, dtype: torch.dtype) -> str | None:
    reason = load()
    if reason is not None:
        return reason
    packet = getattr(torch.ops.fastalign_native, op, None)
    if packet is None or not packet.default.has_kernel_for_dispatch_key(_KEYS[device.type]):
        if device.type == "cuda":
            return (
                "the native library was built without CUDA; rebuild it with FASTALIGN_BUILD_CUDA=1 "
                "where nvcc is found"
            )
        return f"the native library has no {op}; reinstall fastalign"
    if device.type == "cuda":
        if dtype == torch.float64:
            return "the CUDA kernels take float32, float16 and bfloat16, given float64"
        return _not_built_for(torch.cuda.get_device_capability(device))
    return None


def _not_built_for(capability: tuple[int, int]) -> str | None:
    """Why no code in the library runs on GPUs of this compute capability, or None.

    Machine code runs on later minor versions of its own major version, PTX on all later ones, and
    what was compiled for the special features of one architecture ("90a") there alone.
    """
    from fastalign import _C

    targets = _C.cuda_targets().split()
    for target in targets:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", target)
        if found is None:
            continue
        compiled = int(found[2]), int(found[3])
        if compiled == capability:
            return None
        portable = found[4] == "" and compiled < capability
        if portable and (found[1] == "compute" or compiled[0] == capability[0]):
            return None
    return (
        f"the native library was built for {', '.join(targets)} and this GPU has compute "
        f"capability {capability[0]}.{capability[1]}; rebuild it with "
        f"TORCH_CUDA_ARCH_LIST={capability[0]}.{capability[1]}"
    )


def release_memory() -> None:
    """Give back the memory that the CPU kernels keep from call to call: at most 80 MiB.

    Results that are still in use are not touched. Does nothing without the native library.
    """
    if load() is None:
        from fastalign import _C

        _C.release_memory()


def instruction_set() -> str:
    """The instruction set that the CPU kernels use, or why the one asked for cannot be."""
    from fastalign import _C

    try:
        return str(_C.cpu_isa())
    except RuntimeError as error:
        return str(error)


def plan_fields() -> list[tuple[str, str, tuple[str, ...]]]:
    """What can be forced of launch plans: kernel, field and values; empty without the library.

    CPU kernels run on instruction sets that the processor has, so the others are not among them.
    """
    if load() is not None:
        return []
    from fastalign import _C

    runs = [name for name, supported in _C.cpu_isa_levels().items() if supported]
    found = []
    for line in _C.plan_fields().splitlines():
        kernel, field, *values = line.split()
        found.append((kernel, field, tuple(values)))
    return [
        (kernel, field, tuple(v for v in values if v in runs) if field == "isa" else values)
        for kernel, field, values in found
    ]


def force_plans(values: Sequence[int]) -> None:
    """Forces plans from now on: the place of a value, or a number, for each of ``plan_fields()``, 0
    where the kernel chooses."""
    if load() is None:
        from fastalign import _C

        _C.force_plans(values)


def environment(name: str) -> str | None:
    """A variable of the environment, for calls that ask each time; os.environ takes long to say
    that there is none."""
    return _read(name)


@cache
def kernel(op: str) -> Callable[..., Any]:
    """The raw op as a callable with the arguments of its public twin, without ``backend``.

    It does not pass through torch's dispatcher where torch lets it (2.14 and newer), so that
    nothing that watches the dispatcher sees it; what it cannot take as it is goes there.
    """
    from fastalign import _C

    raw = getattr(torch.ops.fastalign_native, op).default
    declared = OPS.get(op)
    size = None if declared is None else declared.size

    def dispatched(*given: Any) -> Any:
        if size is None:
            return raw(*given)
        return raw(*given[:size], *given[size], *given[size + 1 :])

    return _C.direct(op, raw if size is None else dispatched, torch.Tensor.is_neg)
