"""What needs Triton's interpreter runs in a process of its own: it is chosen at import."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "interpreted"
# Of the tests, in their order, which are run: one in so many, beginning with this one.
SAMPLE = "FASTALIGN_INTERPRETED_SAMPLE"


def run(file: str = "", sample: str = "") -> int:
    """Run tests of the folder ``interpreted``, or one in so many ("8", or "8,3" for the fourth and
    every eighth after it); how many passed.

    Raises:
        AssertionError: one failed, or was skipped.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER / file)]
    done = subprocess.run(
        command,
        cwd=HERE.parents[1],
        env=os.environ | {"TRITON_INTERPRET": "1", SAMPLE: sample},
        capture_output=True,
        text=True,
    )
    last = re.search(r"^(\d+) passed\b(?!.*(failed|skipped|error))", done.stdout, re.M)
    assert done.returncode == 0 and last, done.stdout[-4000:] + done.stderr[-2000:]
    return int(last[1])
