"""The kernels once more under AddressSanitizer and UndefinedBehaviorSanitizer.

Their runtimes must be loaded first, so that each run is a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from cuda_on_cpu_support.backend import compiled
from cuda_on_cpu_support.builder import HERE, SANITIZED, compiler, library
from cuda_on_cpu_support.checks import ALL_CASES

# Without torch: the address and the shape of what one kernel of harness_kernels.cu gets.
ONE_KERNEL = """
import ctypes, sys
path, name, shared, number = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
inputs, out = libc.malloc(256), libc.malloc(1024)
ctypes.memset(inputs, 0, 256)
function = getattr(ctypes.CDLL(path), "run_" + name)
function.argtypes = [ctypes.c_int64] * 3 + [ctypes.c_void_p] * 2 + [ctypes.c_int64]
function.restype = ctypes.c_char_p
print(function(1, 64, shared, inputs, out, number))
"""


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


@pytest.fixture(autouse=True)
def needs_the_runtimes() -> None:
    if runtimes() is None:
        pytest.skip("the compiler has no sanitizer runtimes")


@pytest.fixture(scope="module")
def harness() -> Path:
    return library([HERE / "harness_kernels.cu"], SANITIZED)


@pytest.mark.parametrize(
    ("kernel", "shared", "number", "message"),
    [
        ("shared_at", 260, 64, None),
        ("shared_at", 260, 65, "use-after-poison"),
        ("shared_at", 256, -1, "use-after-poison"),
        ("reads_global_at", 0, 63, None),
        ("reads_global_at", 0, 64, "heap-buffer-overflow"),
        ("reads_global_at", 0, -1, "heap-buffer-overflow"),
        ("divides_by", 0, 64, None),
        ("divides_by", 0, 63, "division by zero"),
        ("reads_as_vector_at", 0, 4, None),
        ("reads_as_vector_at", 0, 1, "misaligned address"),
    ],
)
def test_the_sanitizers_see_through_fibers(kernel, shared, number, message, harness):
    result = run("-c", ONE_KERNEL, harness, kernel, shared, number)
    if message is None:
        assert (result.returncode, result.stdout) == (0, "None\n"), result.stderr
    else:
        assert result.returncode != 0 and message in result.stderr, result.stderr


def test_errors_of_the_harness_end_no_process(harness):
    result = run("-c", ONE_KERNEL, harness, "exit_before_barrier", 0, 40)
    assert result.returncode == 0 and "divergent barrier" in result.stdout, result.stderr


def test_every_case():
    compiled(SANITIZED)  # outside: the compiler is not what is watched
    result = run("-m", "cuda_on_cpu_support.sanitized")
    assert result.returncode == 0, (result.stdout + result.stderr)[-6000:]
    assert result.stdout.endswith(f"{4 * len(ALL_CASES)} calls\n")
