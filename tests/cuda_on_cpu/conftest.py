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
sys.path[:0] = [str(HERE), str(HERE.parent / "ops"), str(HERE.parents[1] / "tools")]

from cuda_on_cpu_support import backend as cuda_on_cpu  # noqa: E402
from cuda_on_cpu_support import simulating  # noqa: E402
from cuda_on_cpu_support.builder import IN_ORDER, OPS, compiler, op_sources  # noqa: E402
from cuda_on_cpu_support.kernels import Kernels  # noqa: E402
from op_support.backends import Backend  # noqa: E402

Record = dict[str, tuple[set[str], Counter[str]]]  # by op: kernels launched, counts


def _is_left_out(item: pytest.Item) -> bool:
    """Tests that would say nothing: of float64, which the CUDA kernels do not take, and of ops
    without kernels yet; and maps of one pixel a second time in the other layout."""
    if HERE not in item.path.parents or not hasattr(item, "callspec"):
        return False
    given = item.callspec.params
    case = given.get("case") or given.get("function")
    return (
        given.get("dtype") == torch.float64
        or (item.name.startswith("test_small_shapes") and given["layout"] == "channels_last")
        or (case is not None and not any(op_sources(op) for op in OPS if str(case).startswith(op)))
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not _is_left_out(item)]
    step, first = simulating.sample()
    if step == 1:
        return
    # All of them are recorded; here some are run, to see that the record is true.
    whole = [item for item in items if item.path in simulating.FILES]
    left = set(whole) - set(whole[first::step])
    left |= {item for item in whole if item.name.startswith(simulating.LAST)}
    if "::" not in " ".join(config.args):
        config.hook.pytest_deselected(items=list(left))
        items[:] = [item for item in items if item not in left]


@pytest.fixture(autouse=True)
def needs_a_compiler() -> None:
    if compiler() is None:
        pytest.skip("no C++ compiler; set CXX")


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """The backend, which tests elsewhere do not see."""
    unregister = cuda_on_cpu.register()
    yield
    unregister()


@pytest.fixture(scope="session")
def built() -> Kernels:
    """The kernels of the checkout."""
    return cuda_on_cpu.build()


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
