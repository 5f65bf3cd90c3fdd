"""The check of a chip's arithmetic: that it can fail, and that its device code compiles."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from gpucheck import arithmetic

INTERPRETED = """
import json, sys
sys.path.insert(0, "tools")
import gpucheck.inplace
from gpucheck import arithmetic, arithmetic_triton
found = {}
for name, check in arithmetic.of(arithmetic_triton.compute, "triton", "cpu").items():
    if not any(word in name for word in ("fma", "int32", "border", "rsqrt", "count", "NaN")):
        continue
    try:
        check()
        found[name] = ""
    except Exception as error:
        found[name] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


def test_an_interpreter_is_told_from_a_gpu(repository):
    """Triton's interpreter rounds a fused multiply-add twice: the check says so, and nothing of the
    other functions."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", INTERPRETED],
        cwd=repository,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout.splitlines()[-1])
    failed = {name for name, error in found.items() if error}
    assert len(found) > 8
    assert failed == {"fma_float32 rounds once", "fma_float64 rounds once"}
    assert "values are wrong; the first, of" in found["fma_float32 rounds once"]


def test_a_multiply_add_with_two_roundings_fails():
    def twice(name, inputs, dtype):
        a, b, c = inputs
        return a * b + c

    def once(name, inputs, dtype):
        return arithmetic.once_rounded(inputs)

    for name in ("fma_float32", "fma_float64"):
        arithmetic.fma_rounds_once(once, name, "cpu")
        with pytest.raises(AssertionError, match="values are wrong"):
            arithmetic.fma_rounds_once(twice, name, "cpu")


def test_towards_zero_is_not_to_even():
    def cut(name, inputs, dtype):
        return (inputs[0].view(torch.int32) & -(2**16)).view(torch.float32).to(dtype)

    arithmetic.rounds_to_even(lambda name, inputs, dtype: inputs[0].to(dtype), "to_half", "cpu")
    with pytest.raises(AssertionError, match="values are wrong"):
        arithmetic.rounds_to_even(cut, "to_bfloat16", "cpu")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_the_device_code_compiles(tmp_path):
    target = tmp_path / "arithmetic.so"
    # Code that runs nowhere need not be fast.
    quick = ["-Ofc", "max", "-Xcompiler", "-O0"]
    subprocess.run([*arithmetic.build_command("nvcc", "sm_90", target), *quick], check=True)
    assert target.stat().st_size > 0
