"""Clang compiles the kernels too: what only nvcc accepts is not the language but its habits."""

from __future__ import annotations

import pytest
from cuda_compile.clang import ARCHITECTURES, clang, entries
from cuda_compile.toolchain import sources


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", sources(), ids=lambda path: path.stem)
def test_clang_makes_the_same_kernels(source, architecture, compiled):
    kernels = [kernel for kernel in compiled(architecture) if kernel.source == source.name]
    if clang() is None:
        pytest.skip("no second CUDA compiler: clang++ 19 or newer was not found; set CLANGXX")
    assert kernels
    assert entries(source, architecture) == {kernel.symbol for kernel in kernels}
