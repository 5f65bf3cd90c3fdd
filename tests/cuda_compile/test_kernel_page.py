"""docs/kernels.md is what the tool writes."""

from __future__ import annotations

import pytest
from cuda_compile import page
from cuda_compile.proofs import prover
from cuda_compile.toolchain import ARCHITECTURES, compiler_version, disassembler
from cuda_compile.triton_launches import triton_version

pytestmark = pytest.mark.slow


def test_the_page_is_what_the_tool_writes_of_cuda(compiled):
    for architecture in ARCHITECTURES:
        compiled(architecture)
    if disassembler() is None:
        pytest.skip("no cuobjdump: not in the toolkit, nor as nvidia-cuda-cuobjdump or triton")
    if page.recorded_version() != compiler_version():
        pytest.skip(
            f"the page was written with nvcc {page.recorded_version()}; {compiler_version()} may "
            "give other registers"
        )
    assert page.cuda_part() == page.committed()[0], "run tools/kernel_table.py"


def test_the_page_is_what_the_tool_writes_of_proofs(compiled):
    compiled("sm_100")
    if prover() is None:
        pytest.skip("no prover: the package sentryward is not installed")
    written = page.recorded_version(), page.recorded_prover()
    if written != (compiler_version(), prover()):
        pytest.skip(f"the page was written with nvcc and sentryward {written}: others may differ")
    assert page.proofs_part() == page.committed()[1], "run tools/kernel_table.py"


def test_the_page_is_what_the_tool_writes_of_triton():
    if page.recorded_triton() != triton_version():
        pytest.skip(
            f"the page was written with Triton {page.recorded_triton()}, this is {triton_version()}"
        )
    assert page.triton_part() == page.committed()[2], "run tools/kernel_table.py"
