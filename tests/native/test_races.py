"""The kernels under ThreadSanitizer: four threads on small tensors, and the results of one thread.

``make sanitize-threads`` runs this for every instruction set that the machine has; by itself the
baseline is enough, since the sharing of work is the same code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from native_support import CSRC, build_settings, kernel_sources

pytestmark = pytest.mark.slow

LEVELS = os.environ.get("FASTALIGN_RACE_LEVELS", "baseline").split()
CXX = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
DRIVER = Path(__file__).with_name("thread_driver.cpp")
FLAGS = [flag for flag in build_settings().CXX_FLAGS if flag != "-O3"]
FLAGS += ["-O1", "-g1", "-fsanitize=thread", "-DFASTALIGN_WORK_PER_WORKER=1"]
SECONDS = 600  # for a step that takes a few; the machine may be busy


@pytest.fixture(autouse=True)
def library() -> None:
    """Not needed here, so its absence is no reason to skip."""


def run(command: list[str | Path], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


@pytest.fixture(scope="module")
def launcher(tmp_path_factory) -> list[str]:
    """What an instrumented program has to be started with; skips where none can be run.

    ThreadSanitizer reserves fixed addresses, which a randomised layout may have taken.
    """
    if CXX is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("probe")
    source = folder / "probe.cpp"
    source.write_text("#include <thread>\nint main() { std::thread([] {}).join(); }\n")
    done = run([*CXX.split(), "-std=c++20", "-fsanitize=thread", source, "-o", folder / "probe"])
    if done.returncode != 0:
        pytest.skip(f"{CXX} has no ThreadSanitizer: {done.stderr.strip()[:200]}")
    for launcher in (["setarch", "-R"] if shutil.which("setarch") else [], []):
        if run([*launcher, folder / "probe"]).returncode == 0:
            return launcher
    pytest.skip("programs built with ThreadSanitizer do not run here")


@pytest.fixture(scope="module", params=LEVELS)
def driver(request, launcher, tmp_path_factory) -> Path:
    settings = build_settings()
    level = f"isa_{request.param}"
    if request.param != "baseline":
        from fastalign import _C

        if not _C.cpu_isa_levels().get(request.param):
            pytest.skip(f"this machine cannot run {request.param}")
    flags = [*FLAGS, *settings.ISA_FLAGS[level], f"-DFASTALIGN_ISA={level}"]
    sources = [*kernel_sources(), CSRC / "cpu" / "memory.cpp"]
    program = tmp_path_factory.mktemp("races") / "driver"
    done = run([*CXX.split(), *flags, *sources, DRIVER, "-pthread", "-o", program])
    assert done.returncode == 0, done.stderr[-4000:]
    return program


def test_threads_share_nothing_they_write(driver, launcher):
    done = run([*launcher, driver], TSAN_OPTIONS="halt_on_error=1")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[:4000]
    assert "152 comparisons, 0 failed" in done.stdout


def test_a_race_would_be_found(driver, launcher):
    """Two threads on each piece of work: a check that finds nothing there proves nothing."""
    done = run([*launcher, driver, "race"], TSAN_OPTIONS="halt_on_error=1")
    assert done.returncode != 0
    assert "ThreadSanitizer: data race" in done.stderr
