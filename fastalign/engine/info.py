"""What this installation is made of and what it can run."""

from __future__ import annotations

from typing import Any

import torch

from fastalign.engine.environment import describe_device, environment_variables, versions
from fastalign.ops import available_backends
from fastalign.ops.native import LIBRARY, load
from fastalign.ops.schema import SCHEMAS


def collect() -> dict[str, Any]:
    """Versions, devices, the native library, the backends of every op with reasons; JSON-able.

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
    }


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
