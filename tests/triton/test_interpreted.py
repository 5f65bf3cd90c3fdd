"""What needs Triton's interpreter runs in a process of its own: it is chosen at import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

INTERPRETING = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETING, reason="the interpreted tests are part of this run")
def test_in_the_interpreter(repository: Path):
    folder = Path(__file__).resolve().parent / "interpreted"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        cwd=repository,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
