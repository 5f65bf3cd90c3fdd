"""The cases of ``ops.py`` under pytest-benchmark: one group per case, one line per contestant.

    make bench                                    the quick cases on the CPU
    pytest benchmarks/test_ops.py -k "warp" --benchmark-json=FILE

FASTALIGN_BENCH_PROFILE=quick|chosen|full says which cases, FASTALIGN_BENCH_DEVICE=cpu|cuda where.
pytest-benchmark times one contestant after the other; ``ops.py`` takes them in turns, which a
machine that speeds up or slows down in between does not upset, and is what figures are quoted from.
"""

from __future__ import annotations

import os

import pytest
import torch

from fastalign.bench import gate
from fastalign.bench.cases import CASES, GRID, QUICK, Case
from fastalign.bench.libraries import Absent
from fastalign.bench.measure import OURS, contestants, fresh_compiler
from fastalign.bench.setting import BACKENDS, runnable

DEVICE = os.environ.get("FASTALIGN_BENCH_DEVICE", "cpu")
THREADS = int(os.environ.get("FASTALIGN_BENCH_THREADS", "2"))
PROFILE = {"quick": QUICK, "chosen": CASES, "full": GRID}[
    os.environ.get("FASTALIGN_BENCH_PROFILE", "quick")
]

# The loop takes minutes and says nothing that ops.py does not.
PAIRS = [
    (case, name)
    for case in PROFILE
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
    fresh_compiler()
    inputs = case.inputs(DEVICE)
    work = contestants(case, BACKENDS[DEVICE])[name]
    # No time without a right result.
    try:
        results = work(*inputs)
    except Absent as error:
        pytest.skip(str(error))
    _, wrong = gate.judge(results, gate.yardstick(case, inputs), not name.startswith(OURS))
    assert wrong is None

    def call() -> None:
        work(*inputs)
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark.group = case.name
    benchmark.extra_info["bytes"] = case.bytes()
    benchmark(call)
