"""Programs in processes of their own, as forks of one that has imported what they need: importing
torch and timm takes longer than most of them do.

As a program, ``forks.py NUMBER MODULE...`` imports the modules, then answers requests on the socket
of that number: to run a program with its process, to wait for a process with its exit status.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

LARGEST = 1 << 16  # bytes read at once


class Forked:
    """A program in a fork, used as a :class:`subprocess.Popen` is."""

    def __init__(self, forks: Forks, args: list[str], env: Mapping[str, str]) -> None:
        self.args = args
        self.returncode: int | None = None
        self._forks = forks
        self._err = tempfile.TemporaryFile("w+", errors="replace")
        read, write = os.pipe()
        self.stdout = open(read, errors="replace")
        request = {"command": args, "env": dict(env)}
        self.pid = forks.ask(request, [write, self._err.fileno()])
        os.close(write)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """What it still says, and all that it has said on standard error; it has ended then, by
        itself or killed after ``timeout`` seconds."""
        late = threading.Timer(timeout, self.send_signal, [signal.SIGKILL])
        late.start()
        with self.stdout, self._err:
            out = self.stdout.read()
            self.returncode = self._forks.ask({"wait": self.pid})
            late.cancel()
            self._err.seek(0)
            return out, self._err.read()


class Forks:
    """One interpreter that has imported ``modules`` and has computed nothing."""

    def __init__(self, *modules: str) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(number), *modules], pass_fds=[number]
            )

    def start(self, program: Path, *arguments: object, env: Mapping[str, str] = {}) -> Forked:
        """Begin to run the file ``program`` as Python runs it, in a fork that ends with it, with
        ``env`` beside the other environment variables."""
        return Forked(self, [str(program), *map(str, arguments)], env)

    def run(
        self,
        program: Path,
        *arguments: object,
        env: Mapping[str, str] = {},
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        """The same, to its end."""
        done = self.start(program, *arguments, env=env)
        out, err = done.communicate(timeout)
        assert done.returncode is not None
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def ask(self, request: dict[str, object], files: Sequence[int] = ()) -> int:
        """One request with open files for it, and its answer."""
        # A line each way: sockets do not say where what was sent at once ends.
        socket.send_fds(self._socket, [json.dumps(request).encode(), b"\n"], files)
        with self._socket.makefile("r") as said:
            return int(said.readline())

    def close(self) -> None:
        self._socket.close()
        self._process.wait(60)


def _become(command: list[str], env: dict[str, str], out: int, err: int) -> None:
    """The program in the place of this process."""
    for number, taken in ((0, os.open(os.devnull, os.O_RDWR)), (1, out), (2, err)):
        os.dup2(taken, number)
        os.close(taken)
    # Those of the interpreter know whether what it was given can be sought in.
    sys.stdin = open(0, closefd=False)
    sys.stdout = open(1, "w", closefd=False)
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    status = 1
    try:
        os.environ.update(env)
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


def main(number: str, *modules: str) -> None:
    for module in modules:
        importlib.import_module(module)
    # Shared by all forks as long as nobody writes to it, as a search for garbage does.
    gc.freeze()
    with socket.socket(fileno=int(number)) as asked:
        while True:
            text, files, _, _ = socket.recv_fds(asked, LARGEST, 2)
            if not text:
                return
            while not text.endswith(b"\n"):
                text += asked.recv(LARGEST)
            request = json.loads(text)
            if "wait" in request:
                _, status = os.waitpid(request["wait"], 0)
                answer = os.waitstatus_to_exitcode(status)
            else:
                answer = os.fork()
                if answer == 0:
                    asked.close()
                    _become(request["command"], request["env"], *files)
                for file in files:
                    os.close(file)
            asked.sendall(f"{answer}\n".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
