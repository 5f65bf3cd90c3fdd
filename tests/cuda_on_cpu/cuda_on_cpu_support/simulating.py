"""The ops' tests on the simulated GPU: all of them in a process of their own, or a sample here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
FILES = (HERE / "test_ops.py", HERE / "test_patches.py", HERE / "test_variants.py")
# Which part of these files' tests is run: one in so many, beginning with this one; "1,0" is all.
SAMPLE = "FASTALIGN_SIMULATED_SAMPLE"
USUAL = "10,4"
# Counts the launches of all others.
LAST = "test_every_kernel_was_launched_and_none_added_floats_by_atomics"


def sample() -> tuple[int, int]:
    """Step and first."""
    step, first = os.environ.get(SAMPLE, USUAL).split(",")
    return int(step), int(first)


def run() -> int:
    """Run all of them; how many passed.

    Raises:
        AssertionError: one failed, or was skipped.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, FILES)]
    done = subprocess.run(
        command,
        cwd=HERE.parents[1],
        env=os.environ | {SAMPLE: "1,0"},
        capture_output=True,
        text=True,
    )
    last = re.search(r"^(\d+) passed\b(?!.*(failed|skipped|error))", done.stdout, re.M)
    assert done.returncode == 0 and last, done.stdout[-4000:] + done.stderr[-2000:]
    return int(last[1])
