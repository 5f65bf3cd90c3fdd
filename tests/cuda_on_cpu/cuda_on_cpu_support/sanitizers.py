"""Programs under AddressSanitizer and UndefinedBehaviorSanitizer.

Their runtimes must be loaded first, so that each run is a process of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

from cuda_on_cpu_support.builder import HERE, SANITIZED, compiler, library, op_sources


@cache
def runtimes() -> str | None:
    """The sanitizers' runtimes, or None where the compiler has none."""
    found = []
    for name in ("libasan.so", "libubsan.so"):
        command = [str(compiler()), f"-print-file-name={name}"]
        path = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        if not Path(path).is_absolute():
            return None
        found.append(path)
    return " ".join(found)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = dict(
        os.environ,
        LD_PRELOAD=str(runtimes()),
        OMP_NUM_THREADS="1",
        # What an interpreter leaves at its exit is no leak of ours, and fibers are no fake stacks.
        ASAN_OPTIONS="detect_leaks=0:detect_stack_use_after_return=0",
        UBSAN_OPTIONS="print_stacktrace=1",
    )
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=HERE, env=environment)


def every_case(op: str) -> int:
    """Calls of an op over the kernels of the checkout that found nothing.

    Raises:
        AssertionError: a sanitizer, or a comparison, found something.
    """
    library(op_sources(op), SANITIZED)  # outside: the compiler is not what is watched
    result = run("-m", "cuda_on_cpu_support.sanitized", op)
    said = re.search(r"^(\d+) calls$", result.stdout, re.M)
    assert result.returncode == 0 and said, (result.stdout + result.stderr)[-6000:]
    return int(said[1])
