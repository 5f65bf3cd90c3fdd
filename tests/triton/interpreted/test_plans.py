"""Launch plans of the Triton kernels that are forced, in the interpreter: each gives the result."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from op_support import cases
from op_support.accuracy import assert_as_accurate_as_plain_pytorch
from op_support.backends import Backend
from op_support.cases import CASES, Inputs

from fastalign import ops
from fastalign.errors import BackendError
from fastalign.kernels import dense_plan, pairwise_plan
from fastalign.kernels.common import Workload
from fastalign.ops.triton_plans import FIELDS

BACKEND = Backend("triton", "cpu")
# Few channels, and as many as are loaded at once; the fewer pixels, the sooner it is interpreted.
SHAPES = {"contiguous": (3, 3, 2, 2), "channels_last": (3, 8, 1, 2)}
# Nothing to an interpreter.
UNSEEN = {"warps", "stages"}


def plans_of(kernel: str) -> Iterator[str]:
    """Values of all fields together, each of them once, without those of tiles that take minutes to
    interpret."""
    fields = {name: [v for v in values if v <= 16] for name, values in FIELDS[kernel].items()}
    for turn in range(max(len(fields[name]) for name in fields.keys() - UNSEEN)):
        choice = ", ".join(
            f"{name}={values[(turn + place) % len(values)]}"
            for place, (name, values) in enumerate(fields.items())
        )
        yield f"{kernel}.triton: {choice}"


@pytest.mark.parametrize("kernel", FIELDS)
def test_every_plan_gives_the_result_or_is_refused(kernel, monkeypatch):
    monkeypatch.setattr(cases, "OTHER_SIZE", (2, 3))
    case = next(c for c in CASES if c.op == kernel and "squared" not in c.options)
    served = 0
    for turn, plan in enumerate(plans_of(kernel)):
        layout = list(SHAPES)[turn % 2]
        with ops.forced_plan(plan):
            try:
                inputs = Inputs(torch.float32, "cpu", layout, SHAPES[layout])
                assert_as_accurate_as_plain_pytorch(case, inputs, BACKEND)
            except BackendError as error:
                assert "the forced plan" in str(error)
            else:
                served += 1
    assert served > 1


def test_the_plan_is_what_is_launched():
    """One program of the kernel with all locations and images, or one for each."""
    with ops.forced_plan("dense_similarity.triton: locations=4, images=8"):
        assert dense_plan.plan(Workload(3, 5, 4, 4, False, 132))[1:5] == (4, 1, 3, 1)
    with ops.forced_plan("dense_similarity.triton: locations=1, images=1, warps=8, stages=4"):
        assert dense_plan.plan(Workload(3, 5, 4, 4, False, 132))[1:7] == (1, 4, 1, 3, 8, 4)
    with ops.forced_plan("pairwise_distance.triton: locations=32, images=1, warps=2"):
        assert pairwise_plan.plan(Workload(5, 3, 64, 4, False, 132)) == (1, 1, 32, 2, 5, 2)


def test_channels_that_are_not_whole_loads_are_refused():
    x = torch.ones(1, 8, 2, 2).to(memory_format=torch.channels_last)
    with ops.forced_plan("warp_affine.triton: channels=2"):
        with pytest.raises(BackendError, match="channels=2 does not serve.*4 channels at once"):
            ops.warp_affine(x, torch.eye(2, 3)[None], backend="triton")
