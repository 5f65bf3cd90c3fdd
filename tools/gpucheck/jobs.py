"""Processes side by side under time limits, one thread, everything they print in files."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_POLL = 0.2
_SAVE = 5.0
_GRACE = 4.0


@dataclass
class Job:
    """One process, started again as often as ``again`` allows while it exits with that status."""

    name: str
    command: Sequence[str]
    limit: float
    env: dict[str, str] = field(default_factory=dict)
    again: dict[int, int] = field(default_factory=dict)
    log: Path | None = None
    # Filled by run().
    status: int | None = None
    seconds: float = 0.0
    stopped: bool = False
    _began: float = 0.0
    _ended: float = 0.0
    _process: subprocess.Popen | None = None
    _asked_at: float | None = None

    @property
    def running(self) -> bool:
        return self._process is not None

    def tail(self, characters: int = 2000) -> str:
        if self.log is None or not self.log.exists():
            return ""
        return self.log.read_text(errors="replace")[-characters:].strip()

    def _start(self, folder: Path) -> None:
        if self.log is None:
            self.log = folder / f"{self.name}.log"
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.env},
                # A group of its own, so that what it starts can be ended with it.
                preexec_fn=os.setpgrp,
            )

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass

    def _poll(self, now: float, folder: Path) -> None:
        status = self._process.poll()
        if status is not None:
            self._signal(signal.SIGKILL)
            self._process, self.status = None, status
            self.seconds = now - self._began
            if self.again.get(status, 0) > 0 and not self.stopped:
                self.again = {**self.again, status: self.again[status] - 1}
                self._start(folder)
        elif now - self._began > self.limit:
            if self._asked_at is None:
                # pytest and the benchmarks then say what they have.
                self.stopped, self._asked_at = True, now
                self._signal(signal.SIGINT)
            elif now - self._asked_at > _GRACE:
                self._signal(signal.SIGKILL)


def run(jobs: Sequence[Job], folder: Path, save: Callable[[], None]) -> None:
    """Runs all at once to their ends; calls ``save`` every few seconds and at the end."""
    saved = began = time.monotonic()
    try:
        for job in jobs:
            job._began = began
            try:
                job._start(folder)
            except OSError as error:
                job.status = 127
                (folder / f"{job.name}.log").write_text(f"{error}\n")
        while any(job.running for job in jobs):
            time.sleep(_POLL)
            now = time.monotonic()
            for job in jobs:
                if job.running:
                    job._poll(now, folder)
            if now - saved > _SAVE:
                save()
                saved = now
    finally:
        for job in jobs:
            if job.running:
                job._signal(signal.SIGKILL)
                job._process.wait()
                job._process = None
    save()
