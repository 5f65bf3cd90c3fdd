"""docs/kernels.md is what the tool writes."""

from __future__ import annotations

import pytest
from cuda_compile.page import PAGE, page, recorded_version
from cuda_compile.toolchain import ARCHITECTURES, compiler_version, disassembler


@pytest.mark.slow
def test_the_committed_page_is_what_the_tool_writes(compiled):
    for architecture in ARCHITECTURES:
        compiled(architecture)
    if disassembler() is None:
        pytest.skip("no cuobjdump, in the toolkit or in a wheel")
    if recorded_version() != compiler_version():
        pytest.skip(
            f"the page was written with nvcc {recorded_version()}, this is {compiler_version()}, "
            "which may give other registers"
        )
    assert page() == PAGE.read_text(), "run tools/kernel_table.py"
