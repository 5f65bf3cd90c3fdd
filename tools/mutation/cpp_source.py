"""Mutants of C++ and CUDA files, by patterns: there is no parser to ask."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mutation.python_source import Mutant

CHANGES = [
    (r"(?<=\w) < (?=\w)", " <= "),
    (r"(?<=\w) <= (?=\w)", " < "),
    (r"(?<=\w) >= (?=\w)", " > "),
    (r" == ", " != "),
    (r" != ", " == "),
    (r" && ", " || "),
    (r" \|\| ", " && "),
    (r"(?<=[\w)\]]) \+ (?=[\w(])", " - "),
    (r"(?<=[\w)\]]) - (?=[\w(])", " + "),
    (r"(?<=[\w)\]]) \* (?=[\w(])", " / "),
    (r"(?<=[\w)\]]) / (?=[\w(])", " * "),
    (r" \+= ", " -= "),
    (r" -= ", " += "),
    (r"\bmin\(", "max("),
    (r"\bmax\(", "min("),
    (r"\btrue\b", "false"),
    (r"\bfalse\b", "true"),
    (r"(?<=[ (])0\.5f?\b", "0.25f"),
    (r"(?<=[ (])1\b(?![.\d])", "2"),
]
# What is no code, or does nothing when the program runs.
NOT_CODE = re.compile(
    r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"|^\s*#[^\n]*|\bstatic_assert\(.*?\);|template <[^>]*>',
    re.DOTALL | re.MULTILINE,
)


def mutants(file: str, source: str) -> Iterator[Mutant]:
    """Every mutant of one C++ file; ``file`` is its path from the repository's root."""
    code = NOT_CODE.sub(lambda found: re.sub(r"[^\n]", "\0", found.group()), source)
    for pattern, new in CHANGES:
        for found in re.finditer(pattern, code):
            line = source.count("\n", 0, found.start()) + 1
            yield Mutant(file, line, found.start(), found.end(), found.group(), new)
