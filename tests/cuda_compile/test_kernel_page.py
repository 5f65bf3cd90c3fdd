"""docs/kernels.md is what the records say."""

from __future__ import annotations

from cuda_compile.page import PAGE, page


def test_the_page_is_what_the_tool_writes():
    assert page() == PAGE.read_text(encoding="utf-8"), "run `make records`"
