"""The examples of docs/ops.md run, and what they print is what the page says."""

from __future__ import annotations

import inspect
import re

import pytest
import torch

from fastalign import ops
from fastalign.ops import affine


@pytest.fixture
def page(repository) -> str:
    return (repository / "docs" / "ops.md").read_text(encoding="utf-8")


def test_the_examples_run(page, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 9
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"docs/ops.md, example {number}", "exec"), names)
        printed = capsys.readouterr().out.splitlines()
        promised = [line[2:] for line in block.splitlines() if line.startswith("# ")]
        assert printed[: len(promised)] == promised
    assert isinstance(names["warped"], torch.Tensor)


@pytest.mark.parametrize("name", [n for n in ops.__all__ if n not in ("BACKENDS", "affine")])
def test_every_function_has_its_arguments_on_the_page(name, page):
    in_the_text = {
        "available_backends": "available_backends(op, *tensors)",
        "release_memory": "`ops.release_memory()`",
        "forced_plan": "`forced_plan(plan)`",
        "forced_plans": "`forced_plans()`",
        "plan_fields": "`plan_fields()`",
    }
    if name in in_the_text:
        assert in_the_text[name] in page
        return
    signature = re.search(rf"^    ops\.{name}\(([^()]*)\) -> ", page, re.MULTILINE)
    given = [re.sub(r"\s*=.*", "", word).strip() for word in signature.group(1).split(",")]
    expected = list(inspect.signature(getattr(ops, name)).parameters)
    assert [word for word in given if word != "*"] == expected
    assert page.count(f"\n## {name}\n") == 1


def test_every_family_and_backend_is_on_the_page(page):
    for family, parameters in affine.FAMILIES.items():
        assert f"| `{family}` | {', '.join(parameters)} |" in page
    for backend in ops.BACKENDS:
        assert f"\n| `{backend}` |" in page
    assert "`FASTALIGN_BACKEND`" in page
