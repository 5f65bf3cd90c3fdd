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


def test_arguments_may_be_long(python, tmp_path):
    program = tmp_path / "program.py"
    program.write_text("import sys\nprint(len(sys.argv[1]))")
    assert python.run(program, "x" * 300_000).stdout == "300000\n"


def test_a_program_can_be_followed_and_told_to_end(python, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
        "print(os.environ['ADDED'], flush=True)\n"
        "signal.sigwait({signal.SIGTERM})\n"
        "print('x' * 100_000)\n"
        "sys.exit('told')\n"
    )
    one, other = (python.start(program, env={"ADDED": name}) for name in ("one", "other"))
    for started, name in ((other, "other\n"), (one, "one\n")):
        assert started.stdout.readline() == name
        started.send_signal(signal.SIGTERM)
        out, err = started.communicate(60)
        assert (started.returncode, out, err) == (1, "x" * 100_000 + "\n", "told\n")


def test_a_program_that_does_not_end_is_killed(python, tmp_path):
    program = tmp_path / "program.py"
    program.write_text("print('begun', flush=True)\nimport signal\nsignal.pause()")
    done = python.run(program, timeout=0.5)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "begun\n")
