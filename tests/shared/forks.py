"""Programs in processes of their own, as forks of one that has imported what they need: importing
torch and timm takes longer than most of them do.

As a program, ``forks.py MODULE...`` imports the modules, reads a request a line as JSON and answers
each with the exit status of its program.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path


class Forks:
    """One interpreter that has imported ``modules`` and has computed nothing."""

    def __init__(self, *modules: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run the file ``program`` as Python runs it, in a fork that ends with it."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        command = [str(program), *map(str, arguments)]
        with tempfile.TemporaryDirectory() as folder:
            said = [Path(folder, name) for name in ("stdout", "stderr")]
            process.stdin.write(json.dumps([command, *map(str, said)]) + "\n")
            process.stdin.flush()
            status = int(process.stdout.readline())
            out, err = (path.read_text(errors="replace") for path in said)
        return subprocess.CompletedProcess(command, status, out, err)

    def close(self) -> None:
        self._process.communicate(timeout=60)


def _become(command: list[str], out: str, err: str) -> None:
    """The program in the place of this process."""
    for number, name in ((0, os.devnull), (1, out), (2, err)):
        flags = os.O_RDWR if number == 0 else os.O_WRONLY | os.O_CREAT
        os.dup2(os.open(name, flags, 0o600), number)
    status = 1
    try:
        sys.argv = command
        sys.path[0] = str(Path(command[0]).parent)
        runpy.run_path(command[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main(*modules: str) -> None:
    for module in modules:
        importlib.import_module(module)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(*json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
