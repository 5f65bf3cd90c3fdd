"""Results do not depend on the number of threads, to the last bit."""

from __future__ import annotations

import pytest
import torch
from op_support.cases import CASES, Arguments, Case, Inputs, as_tuple

# Enough work and tiles for every thread; nothing is a multiple of anything.
SHAPE = (5, 9, 131, 67)
SIZE = (97, 113)


def large(case: Case) -> Arguments:
    inputs = Inputs(torch.float32, shape=SHAPE)
    arguments = list(case.make(inputs))
    if case.op == "warp_affine":
        arguments[2] = SIZE
    elif case.op == "warp_affine_backward":
        arguments[0] = inputs.other_size(*SIZE)
    return tuple(arguments)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_number_of_threads_changes_nothing(case):
    arguments = large(case)
    results = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        results.append(as_tuple(getattr(torch.ops.fastalign, case.op)(*arguments, backend="cpu")))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_calls_from_several_threads_at_once():
    """The scratch kept between calls is handed to one caller at a time."""
    from concurrent.futures import ThreadPoolExecutor

    inputs = Inputs(torch.float32, shape=(4, 8, 40, 40))
    x, theta = inputs.features(), inputs.theta()
    wanted = torch.ops.fastalign.warp_affine(x, theta, (40, 40), backend="cpu")

    def call(_: int) -> bool:
        out = torch.ops.fastalign.warp_affine(x, theta, (40, 40), backend="cpu")
        return torch.equal(out, wanted)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(64)))
