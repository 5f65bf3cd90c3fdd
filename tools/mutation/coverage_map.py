"""Which tests run which line, and how long each test takes: from one run under coverage."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

CONFIGURATION = """[run]
source = fastalign
core = ctrace
"""


class CoverageMap:
    """The tests of each line of a copy of the project, shortest first, one of a kind before all."""

    def __init__(self, lines: dict[str, dict[str, list[int]]], seconds: dict[str, float]) -> None:
        self.lines = lines
        self.seconds = seconds
        self.names = list(seconds)

    @classmethod
    def record(cls, copy: Path, tests: list[str], environment: dict[str, str]) -> CoverageMap:
        """Runs the tests in ``copy``; those that fail there are not asked later."""
        import coverage

        (copy / ".mutants.ini").write_text(CONFIGURATION)
        junit = copy / ".mutants.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "-o", "addopts="]
        command += ["--import-mode=importlib", "--cov", "--cov-context=test", "--cov-report="]
        command += ["--cov-config", str(copy / ".mutants.ini"), f"--junitxml={junit}", *tests]
        command += ["-o", "junit_family=xunit1"]
        subprocess.run(command, cwd=copy, env=environment, stdout=sys.stderr)
        seconds = {}
        for case in ElementTree.parse(junit).iter("testcase"):
            if not any(child.tag in ("failure", "error", "skipped") for child in case):
                name = f"{case.get('file')}::{case.get('name')}"
                seconds[name] = float(case.get("time") or 0)
        data = coverage.CoverageData(str(copy / ".coverage"))
        data.read()
        if not seconds:
            raise SystemExit(
                f"error: no test passed in {' '.join(tests)}; see pytest's words above"
            )
        number = {name: index for index, name in enumerate(seconds)}
        lines: dict[str, dict[str, list[int]]] = {}
        for measured in data.measured_files():
            file = Path(measured).resolve().relative_to(copy.resolve()).as_posix()
            of_line = defaultdict(list)
            for line, contexts in data.contexts_by_lineno(measured).items():
                names = {context.rpartition("|")[0] for context in contexts}
                of_line[str(line)] = sorted(number[name] for name in names & seconds.keys())
            lines[file] = dict(of_line)
        return cls(lines, seconds)

    def tests(self, file: str, first: int, last: int, budget: float) -> list[str]:
        """Tests for lines ``first`` to ``last`` within ``budget`` seconds; of lines that run when a
        file is imported, those of the file."""
        of_file = self.lines.get(file, {})
        wanted = {t for line in range(first, last + 1) for t in of_file.get(str(line), ())}
        if not wanted and any(str(line) in of_file for line in range(first, last + 1)):
            wanted = {test for tests in of_file.values() for test in tests}
        ordered = sorted((self.names[t] for t in wanted), key=self.seconds.__getitem__)
        kinds: set[str] = set()
        firsts, others = [], []
        for test in ordered:
            kind = test.partition("[")[0]
            (others if kind in kinds else firsts).append(test)
            kinds.add(kind)
        chosen, spent = [], 0.0
        for test in firsts + others:
            spent += self.seconds[test] + 0.002
            if chosen and spent > budget:
                break
            chosen.append(test)
        return chosen

    def save(self, path: Path) -> None:
        path.write_text(json.dumps({"lines": self.lines, "seconds": self.seconds}))

    @classmethod
    def load(cls, path: Path) -> CoverageMap:
        stored = json.loads(path.read_text())
        return cls(stored["lines"], stored["seconds"])
