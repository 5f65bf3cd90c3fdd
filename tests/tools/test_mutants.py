"""Mutants are small changes of meaning, and the tests asked about one are those of its line."""

from __future__ import annotations

import ast

import pytest
from mutation import cpp_source, python_source
from mutation.coverage_map import CoverageMap

PYTHON = '''"""Doc."""
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import x
def f(a: int | None, b=3) -> str:
    """Is 1 < 2."""
    if a < b and not a:
        raise ValueError(f"{a + 1} is too small")
    print(a)
    return "é" + str(-a * (b + 2.5))
'''
CHANGED = {
    "b=3 -> 4",
    "a < b -> <=",
    "and -> or",
    "not a -> (a)",
    "raise -> pass",
    "print -> pass",
    "-a -> (a)",
    "* -> /",
    "+ -> -",
    "2.5 -> 5.0",
    "if -> not",
}


def test_every_kind_of_change_of_a_python_file():
    found = list(python_source.mutants("f.py", PYTHON))
    results = [mutant.apply(PYTHON) for mutant in found]
    assert len(set(results)) == len(results) == len(CHANGED)
    for mutant, result in zip(found, results, strict=True):
        ast.parse(result)
        assert result.splitlines()[:4] == PYTHON.splitlines()[:4]
        changed = [a != b for a, b in zip(PYTHON.splitlines(), result.splitlines(), strict=True)]
        assert changed.index(True) + 1 == mutant.line and sum(changed) == 1
    assert any("a <= b and not a" in result for result in results)
    assert any('"é" + str(-a * (b - 2.5))' in result for result in results)


def test_every_change_of_a_cpp_file_is_in_its_code():
    source = "#include <a>\n// a < b\nbool f(int a) { return a < 3 && true; } /* x == y */\n"
    found = {str(mutant) for mutant in cpp_source.mutants("f.cpp", source)}
    assert found == {"f.cpp:3: < -> <=", "f.cpp:3: && -> ||", "f.cpp:3: true -> false"}


def test_a_mutant_of_another_text_is_refused():
    mutant = next(iter(python_source.mutants("f.py", "x = 1 < 2\n")))
    with pytest.raises(ValueError, match="f.py is another file"):
        mutant.apply("y")


def test_tests_of_a_line_come_shortest_first_and_one_of_each_kind_before_others():
    seconds = {"t::a[1]": 1.0, "t::a[2]": 0.5, "t::b": 2.0, "t::c": 9.0}
    lines = {"f.py": {"1": [], "5": [0, 1, 2], "6": [3]}}
    found = CoverageMap(lines, seconds)
    assert found.tests("f.py", 5, 5, budget=60) == ["t::a[2]", "t::b", "t::a[1]"]
    assert found.tests("f.py", 5, 5, budget=3) == ["t::a[2]", "t::b"]
    # One that takes longer than there is time is better than none.
    assert found.tests("f.py", 6, 6, budget=3) == ["t::c"]
    # A line that runs at import is judged by the tests of its file, one that never ran by none.
    assert set(found.tests("f.py", 1, 1, budget=60)) == set(seconds)
    assert found.tests("f.py", 7, 7, budget=60) == found.tests("g.py", 5, 5, budget=60) == []
