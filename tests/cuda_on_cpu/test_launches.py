"""The launchers cut the calls of docs/kernels.md as recorded."""

from __future__ import annotations

import pytest
from cuda_on_cpu_support.builder import OPS
from records import checks
from records.store import known


@pytest.mark.parametrize("op", OPS)
def test_launches_are_those_recorded(op, built):
    """Of the objects that are compiled already; linked so that launches are written down."""
    assert checks.LAUNCHES.find(op) == known(checks.LAUNCHES)[op]
