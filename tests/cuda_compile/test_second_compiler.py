"""Clang compiles the kernels too: what only nvcc accepts is not the language but its habits."""

from __future__ import annotations

import pytest
from cuda_compile.clang import ARCHITECTURES, clang, entries
from cuda_compile.toolchain import nvcc, sources


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", sources(), ids=lambda path: path.stem)
def test_clang_makes_the_same_kernels(source, architecture, codes):
    if clang() is None:
        pytest.skip("no second CUDA compiler: clang++ 19 or newer was not found; set CLANGXX")
    if nvcc() is None:
        pytest.skip("no CUDA toolkit for clang: nvcc is not on the PATH and NVCC is not set")
    kernels = [code.kernel for code in codes if code.kernel.architecture == architecture]
    symbols = {kernel.symbol for kernel in kernels if kernel.source == source.name}
    assert symbols
    assert entries(source, architecture) == symbols
