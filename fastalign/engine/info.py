"""What this installation is made of and what it can run."""

from __future__ import annotations

import os
from typing import Any

import torch

from fastalign.engine.environment import (
    describe_device,
    environment_variables,
    package_version,
    versions,
)
from fastalign.engine.extras import extras
from fastalign.errors import ConfigError
from fastalign.load import SETTINGS, spins
from fastalign.ops import available_backends, forced_plans, plan_fields
from fastalign.ops.native import LIBRARY, instruction_set, load
from fastalign.ops.schema import SCHEMAS


def collect() -> dict[str, Any]:
    """Versions, devices, the native library, the backends of every op with reasons, extras, the
    waiting policy of threads, and what computes networks on CPUs; JSON-able.

    ``plans`` says what of the kernels' launch plans can be forced, and what is.
    ``kernels`` says for each type of device in a sentence whether its fast kernels are on.
    ``backends[device type][op][backend]`` is None where the backend can run and else the reason
    why it cannot.
    """
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    samples = {device.type: torch.zeros(1, device=device) for device in devices}
    return {
        "versions": versions(),
        "devices": [describe_device(device) for device in devices],
        "extension": describe_library(),
        "backends": {
            kind: {op: available_backends(op, sample) for op in SCHEMAS}
            for kind, sample in samples.items()
        },
        "environment": environment_variables(),
        "plans": describe_plans(),
        "kernels": describe_kernels(samples),
        "extras": extras(),
        "waiting": describe_waiting(),
        "runtime": describe_runtime(),
    }


def describe_kernels(samples: dict[str, torch.Tensor]) -> dict[str, str]:
    """For each type of device one sentence: whether its fast kernels are on, and why not."""
    return {kind: _kernels(kind, sample) for kind, sample in samples.items()}


def _kernels(kind: str, sample: torch.Tensor) -> str:
    forced = os.environ.get("FASTALIGN_BACKEND") or "auto"
    if forced != "auto":
        return f"not chosen: FASTALIGN_BACKEND={forced} decides"
    reasons = [available_backends(op, sample) for op in SCHEMAS]
    off = [found[kind] for found in reasons if found.get(kind) is not None]
    if not off:
        return f"on ({instruction_set()})" if kind == "cpu" else "on"
    if kind == "cuda" and all(found["triton"] is None for found in reasons):
        return f"on, as Triton kernels ({off[0]})"
    some = "off" if len(off) == len(reasons) else f"off for {len(off)} of {len(reasons)} ops"
    return f"{some}, slower code takes their place: {off[0]}"


def describe_plans() -> dict[str, Any]:
    """Launch plans by kernel and field: the values that can be forced, what is forced, and what is
    wrong with ``FASTALIGN_PLAN``, else None."""
    try:
        forced, wrong = forced_plans(), None
    except ConfigError as error:
        forced, wrong = {}, str(error)
    fields = {
        kernel: {name: list(values) for name, values in found.items()}
        for kernel, found in plan_fields().items()
    }
    return {"fields": fields, "forced": forced, "wrong": wrong}


def describe_waiting() -> str:
    """How threads that wait for each other do it, in words."""
    chosen = {name: value for name in SETTINGS if (value := os.environ.get(name))}
    how = "spin" if spins() else "sleep"
    settings = ", ".join(f"{name}={value}" for name, value in chosen.items())
    if how == "sleep":
        return f"sleep ({settings})"
    return f"spin ({settings or 'the default of OpenMP'}): slow on a busy machine"


def describe_runtime() -> str:
    """What ``--runtime auto`` computes networks by on the CPU, and why it is torch, in words."""
    from fastalign.models.fyd import FYD

    try:
        chosen = FYD.chosen_runtime("cpu")
    except ConfigError as error:
        return str(error)
    if chosen.runtime == "openvino":
        return f"openvino {package_version('openvino') or ''}, where it gives what torch gives"
    return chosen.words


def describe_library() -> dict[str, Any]:
    """The native library: whether it loads, why not, and the devices it holds kernels for."""
    reason = load()
    kinds = []
    if reason is None:
        for kind, key in (("cpu", "CPU"), ("cuda", "CUDA")):
            packets = (getattr(torch.ops.fastalign_native, op, None) for op in SCHEMAS)
            if any(p is not None and p.default.has_kernel_for_dispatch_key(key) for p in packets):
                kinds.append(kind)
    return {
        "file": str(LIBRARY),
        "loaded": reason is None,
        "reason": reason,
        "built_for": kinds,
        "cuda_of_torch": torch.version.cuda,
    }
