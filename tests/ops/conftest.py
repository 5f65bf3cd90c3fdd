"""Fixtures of the op tests; what they share lies in op_support."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# With importmode=importlib, pytest adds no folder to the import path.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from op_support.backends import Backend, missing, runnable  # noqa: E402

RUNNABLE = runnable()


def pytest_report_header() -> list[str]:
    lines = [f"fastalign backends: {', '.join(str(backend) for backend in RUNNABLE)}"]
    return lines + [f"  without {name}: {reason}" for name, reason in missing().items()]


@pytest.fixture(params=RUNNABLE, ids=str)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend that can run here, one after the other."""
    return request.param


@pytest.fixture(params=[b for b in RUNNABLE if b.name == "reference"], ids=str)
def reference_backend(request: pytest.FixtureRequest) -> Backend:
    """The reference on every device, for what it alone promises."""
    return request.param


@pytest.fixture(params=[b for b in RUNNABLE if b.name != "reference"] or RUNNABLE, ids=str)
def traced(request: pytest.FixtureRequest) -> Backend:
    """For graphs, in which an op is a name: the reference makes the same graph as the kernels."""
    return request.param


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Uninitialised memory holds NaN: an output that a kernel forgets to write is seen.

    torch fills what torch.empty gives under its deterministic switch, native code included. It only
    warns of plain PyTorch that adds with atomics, which is the yardstick on a GPU.
    """
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture(autouse=True)
def no_forced_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend under test is named by the test, not by the caller's environment."""
    monkeypatch.delenv("FASTALIGN_BACKEND", raising=False)
