"""All of the ops' tests on the simulated GPU, as recorded.

test_ops.py and test_variants.py run some of them here.
"""

from __future__ import annotations

from cuda_on_cpu_support.builder import OPS
from cuda_on_cpu_support.checks import ALL_CASES
from records import checks
from records.store import known
from test_variants import SHAPES


def test_all_of_them_passed():
    # Each case at each shape, in every schedule, and the count of launches of each op.
    least = len(ALL_CASES) * (len(SHAPES) + 1) + len(OPS)
    assert known(checks.SIMULATED)["ops"]["passed"] > least
