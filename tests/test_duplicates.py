"""What stands once: no run of the same lines in two places of the kernels, read from the source."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from itertools import combinations, takewhile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = (
    *sorted((ROOT / "kernels").glob("*.py")),
    *(
        path
        for path in sorted((ROOT / "csrc").rglob("*"))
        if path.suffix in (".h", ".cpp", ".cuh", ".cu")
    ),
)
# Lines that two places may have in common, one after the other. A kernel's list of parameters, with
# a line for each pointer and its shape, is as long as this where two kernels take the same tensors.
MOST = 8

_COMMENTS = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)
_WORD = re.compile(r"\w.*\w")


def _python_lines(text: str) -> list[str]:
    """The lines without comments; those of docstrings and imports are empty."""
    lines = [re.sub(r"(^|\s)#.*", "", line) for line in text.splitlines()]
    for node in ast.walk(ast.parse(text)):
        words = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if words or isinstance(node, (ast.Import, ast.ImportFrom)):
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return lines


def _native_lines(text: str) -> list[str]:
    """The same of C++; lines of the preprocessor's own are empty as imports are."""
    plain = _COMMENTS.sub(lambda found: "\n" * found[0].count("\n"), text)
    return [re.sub(r"^\s*#\s*(include|pragma).*", "", line) for line in plain.splitlines()]


def code_lines(text: str, python: bool) -> list[tuple[int, str]]:
    """Lines of code with their numbers, with single blanks; brackets alone are none."""
    lines = (_python_lines if python else _native_lines)(text)
    spaced = ((number, " ".join(line.split())) for number, line in enumerate(lines, 1))
    return [(number, line) for number, line in spaced if _WORD.search(line)]


def common_runs(files: dict[str, list[tuple[int, str]]], most: int) -> list[str]:
    """Runs of more than ``most`` lines that stand twice, in two files or in one; the longest that
    begin at a place."""
    length = most + 1
    places = defaultdict(list)
    for name, lines in files.items():
        for start in range(len(lines) - length + 1):
            places[tuple(line for _, line in lines[start : start + length])].append((name, start))
    found = []
    for twins in places.values():
        for (one, here), (other, there) in combinations(twins, 2):
            a, b = files[one], files[other]
            if here and there and a[here - 1][1] == b[there - 1][1]:
                continue  # the run began earlier
            same = takewhile(
                lambda pair: pair[0][1] == pair[1][1], zip(a[here:], b[there:], strict=False)
            )
            end = sum(1 for _ in same)
            found.append(f"{one}:{a[here][0]} and {other}:{b[there][0]} share {end} lines")
    return sorted(found)


def test_no_code_of_the_kernels_stands_twice():
    files = {
        path.relative_to(ROOT).as_posix(): code_lines(
            path.read_text(encoding="utf-8"), path.suffix == ".py"
        )
        for path in SOURCES
    }
    assert sum(map(len, files.values())) > 8000
    assert common_runs(files, MOST) == []


def test_a_copy_would_be_seen():
    body = "\n".join(f"    value{n} = load(pointer + {n})" for n in range(4))
    python = f'import torch\n\ndef one():\n    """Says what it does."""\n{body}\n    return value0'
    other = f"\n# Elsewhere.\ndef two(pointer):\n{body}  # here too\n    return value1\n"
    files = {"a.py": code_lines(python, True), "b.py": code_lines(other, True)}
    assert common_runs(files, 3) == ["a.py:5 and b.py:4 share 4 lines"]
    assert common_runs(files, 4) == []
    native = code_lines("#include <a>\n/* int\n x */ int y;  // z\n}\nint  y;", False)
    assert native == [(3, "int y;"), (5, "int y;")]
    assert common_runs({"c.h": native}, 0) == ["c.h:3 and c.h:5 share 1 lines"]
