"""The kernels once more under AddressSanitizer and UndefinedBehaviorSanitizer.

Every case as recorded, and the harness and one op here and now.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from cuda_on_cpu_support.builder import HERE, OPS, SANITIZED, library
from cuda_on_cpu_support.checks import ALL_CASES
from cuda_on_cpu_support.sanitized import SHAPES
from cuda_on_cpu_support.sanitizers import every_case, run, runtimes
from records import checks
from records.store import known

from fastalign.ops.schema import stem_of

SAMPLE = "refine_pose"  # is built and run fastest

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


def test_every_case_was_run_and_nothing_found():
    cases = {op: sum(stem_of(case.op) == op for case in ALL_CASES) for op in OPS}
    assert known(checks.SANITIZED) == {op: len(SHAPES) * cases[op] for op in OPS}


def test_one_op_gives_what_is_recorded():
    assert every_case(SAMPLE) == known(checks.SANITIZED)[SAMPLE]
