"""Skips everything here unless Triton interprets."""

from __future__ import annotations

import os

import pytest

if os.environ.get("TRITON_INTERPRET", "0") in ("", "0"):

    def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
        skip = pytest.mark.skip(reason="needs TRITON_INTERPRET=1; tests/triton/test_interpreted.py")
        for item in items:
            if "/interpreted/" in item.path.as_posix():
                item.add_marker(skip)
