"""New processes that find a variable of the environment in different ways."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable

# A copy of this process for each value: importing torch takes longer than all of them together, and
# no op has run in it, so that the library is not loaded and has read no variable.
_COPIES = """
import json, os, sys, tempfile, traceback
import torch
from fastalign import ops

code, name, *values = sys.argv[1:]
said = []
for value in values:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            os.environ[name] = value
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            status = 0
            try:
                exec(code)
            except BaseException:
                traceback.print_exc()
                status = 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        status = os.waitpid(child, 0)[1]
        for file in (out, err):
            file.seek(0)
        said.append((status, out.read().decode(), err.read().decode()))
print(json.dumps(said))
"""


def with_variable(name: str, values: Iterable[str], code: str) -> dict[str, tuple[int, str, str]]:
    """Exit status, output and errors of ``code``, which finds ``torch`` and ``ops`` imported, in a
    new process for each value of an environment variable."""
    values = list(values)
    command = [sys.executable, "-c", _COPIES, code, name, *values]
    environment = {key: value for key, value in os.environ.items() if key != name}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(zip(values, map(tuple, json.loads(done.stdout)), strict=True))
