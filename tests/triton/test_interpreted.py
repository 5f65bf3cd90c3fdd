"""The kernels in Triton's interpreter, which runs in a process of its own.

All tests of the folder ``interpreted`` as recorded, and some of each file here and now.
"""

from __future__ import annotations

import math
import os

import pytest
from interpreting import FOLDER, run
from records import checks
from records.store import known

INTERPRETING = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")
STEP, FIRST = 40, 5


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETING, reason="the interpreted tests are part of this run")
def test_in_the_interpreter():
    found = known(checks.INTERPRETED)
    assert set(found) == {path.name for path in FOLDER.glob("test_*.py")}
    tests = sum(entry["passed"] for entry in found.values())
    # As many as there are: none that was recorded is missing, and none is new.
    assert run(sample=f"{STEP},{FIRST}") == math.ceil((tests - FIRST) / STEP)
