"""docs/scaling.md: its example runs, its tables are those of the script, its names exist."""

from __future__ import annotations

import re
from pathlib import Path

import fastalign.distributed

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")


def test_the_example_runs_in_one_process():
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(example, "docs/scaling.md", "exec"), {})


def test_the_names_in_the_table_are_public():
    rows = re.findall(r"^\| (`.+?`) \|", PAGE, re.M)
    names = [name for cell in rows for name in re.findall(r"`(\w+)", cell)]
    assert len(names) > 8
    assert set(names) <= set(fastalign.distributed.__all__)


def test_the_tables_are_those_of_the_script():
    results = (ROOT / "benchmarks" / "results" / "scaling.md").read_text(encoding="utf-8")
    rows = [line for line in results.splitlines() if line.startswith("|")]
    assert len(rows) > 15
    assert [line for line in rows if line not in PAGE] == []
