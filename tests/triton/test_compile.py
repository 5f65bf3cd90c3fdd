"""The kernels compile for GPUs that are not here, without spills and with the loads they claim."""

from __future__ import annotations

import os

import pytest
from compiling import TARGETS, all_cases, launches_of, resources

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"),
        reason="under TRITON_INTERPRET kernels are not compiled",
    ),
]

# Every kernel for one GPU of each maker, the first case of each op for the others.
EVERY = ("sm_90", "gfx942")
OTHERS = tuple(name for name in TARGETS if name not in EVERY)

CASES = [
    pytest.param(case, target, id=f"{op}-{case.name}-{target}")
    for op, cases in all_cases().items()
    for place, case in enumerate(cases)
    for target in (*EVERY, *(OTHERS if place == 0 else ()))
]


@pytest.mark.parametrize(("case", "target"), CASES)
def test_compiles_within_its_means(case, target):
    launches = list(launches_of(case))
    assert launches and set(case.wide_loads) <= {launch.name for launch in launches}
    for launch in launches:
        found = resources(case, launch, target)
        assert found.spilled == 0, found
        # Of the least that a program may have on any of the targets, 64 KB.
        assert found.shared <= 65536 + 1024, found
        if launch.name in case.wide_loads and found.wide_loads is not None:
            assert found.wide_loads > 0, found
