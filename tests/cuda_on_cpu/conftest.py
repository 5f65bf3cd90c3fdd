"""Fixtures of the tests that run CUDA kernel bodies on the CPU; see harness/cuda_on_cpu.h."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

# With importmode=importlib, pytest adds no folder to the import path.
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "ops")]

from cuda_on_cpu_support import backend as cuda_on_cpu  # noqa: E402
from cuda_on_cpu_support.builder import IN_ORDER, compiler  # noqa: E402
from cuda_on_cpu_support.kernels import Kernels  # noqa: E402
from op_support.backends import Backend  # noqa: E402


Record = dict[str, tuple[set[str], Counter[str]]]  # by op: kernels launched, counts


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The CUDA kernels take no float64: tests of it do not run and do not count as skipped."""
    here = [item for item in items if HERE in item.path.parents]
    wide = [
        item
        for item in here
        if hasattr(item, "callspec") and item.callspec.params.get("dtype") == torch.float64
    ]
    for item in wide:
        items.remove(item)


@pytest.fixture(autouse=True)
def needs_a_compiler() -> None:
    if compiler() is None:
        pytest.skip("no C++ compiler; set CXX")


@pytest.fixture(scope="session")
def built() -> Iterator[Kernels]:
    """The kernels of the checkout, and the backend registered."""
    unregister = cuda_on_cpu.register()
    yield cuda_on_cpu.build()
    unregister()


@pytest.fixture(scope="session")
def launch_record() -> Record:
    return {}


@pytest.fixture
def kernels(built: Kernels, launch_record: Record) -> Iterator[Kernels]:
    """The kernels of the checkout in order on the usual device, serving the backend.

    What they launch is remembered, whichever test asks for it.
    """
    for library in built.found.values():
        library.schedule(IN_ORDER)
        library.device()
    yield cuda_on_cpu.serve(built)
    for op, library in built.found.items():
        names, counts = launch_record.setdefault(op, (set(), Counter()))
        names.update(library.launched())
        counts.update(library.counts().as_dict())


@pytest.fixture
def launches(launch_record: Record) -> Callable[[str], tuple[set[str], Counter[str]]]:
    """Names of the kernels of an op that ran so far, and the harness's counts."""
    return lambda op: launch_record.get(op, (set(), Counter()))


@pytest.fixture
def backend(kernels: Kernels) -> Backend:
    """For the generic tests of tests/ops."""
    return cuda_on_cpu.BACKEND


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Uninitialised memory holds NaN: an output that a kernel forgets to write is seen."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)
