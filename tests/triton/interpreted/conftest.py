"""Skips everything here unless Triton interprets; a part of it where only that is asked for."""

from __future__ import annotations

import os

import pytest
from interpreting import SAMPLE

INTERPRETING = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = [item for item in items if "/interpreted/" in item.path.as_posix()]
    if not INTERPRETING:
        skip = pytest.mark.skip(reason="needs TRITON_INTERPRET=1; tests/triton/test_interpreted.py")
        for item in here:
            item.add_marker(skip)
    elif os.environ.get(SAMPLE):
        step, _, first = os.environ[SAMPLE].partition(",")
        chosen = set(here[int(first or 0) :: int(step)])
        left = [item for item in here if item not in chosen]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]
