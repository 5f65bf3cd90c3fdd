"""Programs in forks run as programs do, and leave nothing to the next one."""

from __future__ import annotations

import signal
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")


@pytest.fixture(scope="module")
def python(forks):
    return forks("json")


@pytest.mark.parametrize(
    ("code", "status", "out", "err"),
    [
        ("import sys; print(sys.argv[1:], __name__)", 0, "['a', '1'] __main__\n", ""),
        ("import beside; print(beside.NUMBER)", 0, "7\n", ""),
        ("import sys; sys.stderr.write('e'); sys.exit(3)", 3, "", "e"),
        ("print('half'); raise SystemExit('no')", 1, "half\n", "no\n"),
        ("print(input())", 1, "", "EOFError"),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, "", ""),
        ("import json; print(hasattr(json, 'left')); json.left = 1", 0, "False\n", ""),
    ],
)
def test_a_program_says_what_it_says_by_itself(python, tmp_path, code, status, out, err):
    program = tmp_path / "program.py"
    program.write_text(code)
    (tmp_path / "beside.py").write_text("NUMBER = 7")
    for _ in range(2):
        done = python.run(program, "a", 1)
        assert (done.returncode, done.stdout) == (status, out)
        assert err in done.stderr and bool(err) == bool(done.stderr)
