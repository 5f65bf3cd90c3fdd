"""The backends that can run on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fastalign import ops
from fastalign.ops.schema import SCHEMAS


@dataclass(frozen=True)
class Backend:
    """A backend and the device its tensors live on."""

    name: str
    device: str

    def __str__(self) -> str:
        return self.name if self.device == "cpu" else f"{self.name}-{self.device}"

    def may_refuse(self, first: Tensor) -> bool:
        """Whether a stated limit is no failure; the reference and the CPU kernels have none."""
        return self.name == "triton" or (self.name == "cuda" and first.dtype == torch.float64)

    def require(self, op: str, *tensors: Tensor) -> None:
        """Skip where the backend has a stated limit for these tensors and may have it."""
        reason = ops.available_backends(op, *tensors)[self.name]
        if reason is None:
            return
        if not self.may_refuse(tensors[0]):
            pytest.fail(f"{self.name} should run {op}: {reason}")
        pytest.skip(f"{self.name}: {reason}")

    def run(self, op: str, *arguments: object) -> Tensor | tuple[Tensor, ...]:
        """Call ``torch.ops.fastalign.<op>`` with this backend; the schema's arguments before it."""
        tensors = [value for value in arguments if isinstance(value, Tensor)]
        self.require(op, *tensors)
        return getattr(torch.ops.fastalign, op)(*arguments, backend=self.name)


def _reasons(name: str, device: str) -> list[str]:
    tensor = torch.empty(0, device=device)
    found = [ops.available_backends(op, tensor)[name] for op in SCHEMAS]
    return [reason for reason in found if reason is not None]


def candidates() -> list[Backend]:
    """All backends on the devices they are meant for."""
    gpu = "cuda" if torch.cuda.is_available() else "cpu"
    found = [Backend("reference", "cpu"), Backend("cpu", "cpu"), Backend("triton", gpu)]
    if gpu == "cuda":
        found += [Backend("reference", "cuda"), Backend("cuda", "cuda")]
    return found


def missing() -> dict[str, str]:
    """Backends that run no op here, with the reason."""
    result = {}
    for backend in candidates():
        reasons = _reasons(backend.name, backend.device)
        if len(reasons) == len(SCHEMAS):
            result[str(backend)] = reasons[0]
    if not torch.cuda.is_available():
        result["cuda"] = "no CUDA device"
    return result


def runnable() -> list[Backend]:
    """Backends that run at least one op here; FASTALIGN_TEST_BACKENDS=a,b selects."""
    chosen = [name for name in os.environ.get("FASTALIGN_TEST_BACKENDS", "").split(",") if name]
    absent = missing()
    found = [backend for backend in candidates() if str(backend) not in absent]
    return [backend for backend in found if not chosen or backend.name in chosen]
