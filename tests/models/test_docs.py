"""The examples of docs/model.md run, and its table of options is the configuration."""

import dataclasses
import re
from pathlib import Path

import pytest

from fastalign import FYDConfig

PAGE = Path(__file__).parents[2] / "docs" / "model.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(example, str(PAGE), "exec"), {})


def test_every_option_is_in_the_table_and_has_a_tag():
    rows = re.findall(
        r"^\| (`.+?) \| .*? \| \[([PLO])\] \|", PAGE.read_text(encoding="utf-8"), re.M
    )
    listed = [name for cell, _ in rows for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(listed) == sorted(field.name for field in dataclasses.fields(FYDConfig))
