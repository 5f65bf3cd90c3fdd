"""The cases of ``ops.py`` under pytest-benchmark: one group per case, one line per contestant.

    make bench                                    everything on the CPU
    pytest benchmarks/test_ops.py -k "warp" --benchmark-json=FILE

pytest-benchmark times one contestant after the other; ``ops.py`` takes them in turns, which a
machine that speeds up or slows down in between does not upset, and is what figures are quoted from.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

# With importmode=importlib, pytest adds no folder to the import path.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from opbench import gate  # noqa: E402
from opbench.cases import CASES, Case  # noqa: E402
from opbench.measure import OURS, contestants  # noqa: E402
from ops import BACKENDS, runnable  # noqa: E402

DEVICE = os.environ.get("FASTALIGN_BENCH_DEVICE", "cpu")
THREADS = int(os.environ.get("FASTALIGN_BENCH_THREADS", "2"))

# The loop takes minutes and says nothing that ops.py does not.
PAIRS = [
    (case, name)
    for case in CASES
    for name in contestants(case, BACKENDS[DEVICE])
    if name not in ("loop", "memcpy")
]


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("case", "name"), PAIRS, ids=[f"{c.name}-{n}" for c, n in PAIRS])
def test_op(case: Case, name: str, benchmark) -> None:
    backend = name.partition("/")[2]
    if backend:
        able, absent = runnable(DEVICE, [backend])
        if not able:
            pytest.skip(absent[backend])
    torch._dynamo.reset()
    inputs = case.inputs(DEVICE)
    work = contestants(case, BACKENDS[DEVICE])[name]
    # No time without a right result.
    _, wrong = gate.judge(work(*inputs), gate.yardstick(case, inputs), not name.startswith(OURS))
    assert wrong is None

    def call() -> None:
        work(*inputs)
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark.group = case.name
    benchmark.extra_info["bytes"] = case.bytes()
    benchmark(call)
