"""The CPU kernels under ThreadSanitizer: four threads on small tensors, and the results of one
thread."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from native_support import CSRC, build_settings, kernel_sources

CXX = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
DRIVER = Path(__file__).with_name("thread_driver.cpp")
FLAGS = [flag for flag in build_settings().CXX_FLAGS if flag != "-O3"]
FLAGS += ["-O1", "-g1", "-fsanitize=thread", "-DFASTALIGN_WORK_PER_WORKER=1"]
SECONDS = 600  # for a step that takes a few; the machine may be busy


class CannotRun(Exception):
    """Programs with a race detector cannot be built or run here; the message says why."""


def run(command: list[str | Path], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def sources() -> list[Path]:
    return [*kernel_sources(), CSRC / "cpu" / "memory.cpp"]


@cache
def launcher() -> tuple[str, ...]:
    """What an instrumented program has to be started with.

    ThreadSanitizer reserves fixed addresses, which a randomised layout may have taken.

    Raises:
        CannotRun: there is no compiler, or no way to start what it makes.
    """
    if CXX is None:
        raise CannotRun("no C++ compiler")
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "probe.cpp"), Path(folder, "probe")
        source.write_text("#include <thread>\nint main() { std::thread([] {}).join(); }\n")
        done = run([*CXX.split(), "-std=c++20", "-fsanitize=thread", source, "-o", program])
        if done.returncode != 0:
            raise CannotRun(f"{CXX} has no ThreadSanitizer: {done.stderr.strip()[:200]}")
        for start in (("setarch", "-R") if shutil.which("setarch") else (), ()):
            if run([*start, program]).returncode == 0:
                return start
    raise CannotRun("programs built with ThreadSanitizer do not run here")


def build(level: str, folder: Path) -> Path:
    """The driver with the kernels of one instruction set."""
    name = f"isa_{level}"
    flags = [*FLAGS, *build_settings().ISA_FLAGS[name], f"-DFASTALIGN_ISA={name}"]
    program = folder / "driver"
    done = run([*str(CXX).split(), *flags, *sources(), DRIVER, "-pthread", "-o", program])
    assert done.returncode == 0, done.stderr[-4000:]
    return program


def compare(program: Path) -> str:
    """What the driver counts: comparisons and failures.

    Raises:
        AssertionError: results differ, or the detector sees a race.
    """
    done = run([*launcher(), program], TSAN_OPTIONS="halt_on_error=1")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[:4000]
    return done.stdout.splitlines()[-1]


def provoke(program: Path) -> str:
    """What the detector says where two threads share each piece of work.

    Raises:
        AssertionError: nothing.
    """
    done = run([*launcher(), program, "race"], TSAN_OPTIONS="halt_on_error=1")
    found = re.search(r"ThreadSanitizer: (data race)", done.stderr)
    assert done.returncode != 0 and found, done.stderr[-4000:]
    return found[1]
