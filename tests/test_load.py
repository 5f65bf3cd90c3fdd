"""The load of the machine, how threads wait, and what is said about it."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from fastalign import load
from fastalign.load import Load, LoadMeter, SpinWatch, keep_freed_memory, spins, wait_passively


@pytest.mark.parametrize(
    "own",
    [
        {"OMP_WAIT_POLICY": "active"},
        {"GOMP_SPINCOUNT": "1000"},
        {"KMP_BLOCKTIME": "1"},
        {"KMP_LIBRARY": "turnaround"},
    ],
    ids=lambda own: next(iter(own)),
)
def test_what_the_user_has_set_stays(own):
    environment = dict(own)
    assert not wait_passively(environment)
    assert environment == own


def test_without_a_word_of_the_user_threads_sleep_after_a_moment():
    environment = {"OMP_WAIT_POLICY": ""}
    assert spins(environment) and wait_passively(environment) and not spins(environment)
    assert environment == {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "2000"}


_FAULTS = """
import sys
from resource import RUSAGE_SELF, getrusage
from fastalign.load import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
import numpy as np
before = getrusage(RUSAGE_SELF).ru_minflt
for _ in range(4):
    blocks = [np.ones(1 << 20, np.float32) for _ in range(4)]
    del blocks
print(getrusage(RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="malloc gives pages back in its own way: not GNU's"
)
def test_pages_that_were_freed_are_not_asked_for_again():
    def faults(how: str) -> int:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
        command = [sys.executable, "-c", _FAULTS, how]
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return int(found.stdout)

    # Four blocks are touched anew in the first of four rounds, or in each.
    assert 2 * faults("keep") < faults("leave")


@pytest.mark.parametrize(
    "own", [{"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}]
)
def test_a_word_of_the_user_about_malloc_stays(own):
    assert not keep_freed_memory(own)


@pytest.mark.parametrize(
    ("expected", "environment"),
    [
        (True, {}),
        (True, {"OMP_WAIT_POLICY": "ACTIVE"}),
        (False, {"OMP_WAIT_POLICY": " Passive "}),
        (True, {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "infinity"}),
        (False, {"GOMP_SPINCOUNT": "0"}),
        (True, {"GOMP_SPINCOUNT": "300000"}),
        (False, {"KMP_BLOCKTIME": "0"}),
        (True, {"KMP_BLOCKTIME": "200"}),
    ],
)
def test_which_settings_spin(expected, environment):
    assert spins(environment) is expected


START = """
import os, sys, runpy
sys.argv = ["fastalign", "--version"]
try:
    {run}
except SystemExit:
    pass
print(os.environ.get("OMP_WAIT_POLICY"), "torch" in sys.modules)
"""


@pytest.mark.parametrize(
    ("run", "policy", "expected"),
    [
        ("runpy.run_module('fastalign', run_name='__main__')", None, "passive False"),
        ("from fastalign.cli import main; main()", None, "passive False"),
        ("from fastalign.cli import main; main()", "active", "active False"),
        ("sys.modules['torch'] = sys; from fastalign.cli import main; main()", None, "None True"),
        ("import fastalign, fastalign.load", None, "None False"),
    ],
    ids=["python -m", "command", "user's own", "torch is loaded", "library"],
)
def test_the_command_chooses_before_torch_is_loaded(run, policy, expected, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if policy:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    for name in load.SETTINGS[1:]:
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run(
        [sys.executable, "-c", START.format(run=run)], capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == expected, done.stderr


def write_tasks(folder: Path, **times: tuple[float, float]) -> None:
    for task, (ran, waited) in times.items():
        (folder / task).mkdir(parents=True, exist_ok=True)
        (folder / task / "schedstat").write_text(f"{int(1e9 * ran)} {int(1e9 * waited)} 7\n")


@pytest.fixture
def tasks(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "task"
    write_tasks(folder, main=(10.0, 3.0), gone=(5.0, 5.0))
    monkeypatch.setattr(load, "_TASKS", folder)
    monkeypatch.setattr(load, "average", lambda: 4.25)
    monkeypatch.setattr(load, "cores", lambda: 2)
    return folder


def test_the_share_in_wait_of_a_core(tasks):
    meter = LoadMeter()
    (tasks / "gone" / "schedstat").unlink()
    write_tasks(tasks, main=(10.5, 3.25), new=(0.25, 0.0))
    found = meter.read()
    assert found == Load(4.25, 2, 0.25) and found.busy
    assert Load.from_json(found.to_json()) == found
    assert found.describe() == "load average 4.2 on 2 cores, waited for a core 25 % of the time"


@pytest.mark.parametrize(
    ("busy", "found"),
    [
        (False, Load(9.0, 2, 0.02)),
        (True, Load(0.1, 2, 0.3)),
        (True, Load(2.6, 2, None)),
        (False, Load(2.5, 2, None)),
        (False, Load(None, 2, None)),
    ],
)
def test_what_counts_as_busy(busy, found):
    """Waiting is what happened to us; the load average lags behind and stands in for it."""
    assert found.busy is busy


def watch_calls(
    monkeypatch,
    tasks: Path,
    waited: float,
    threads: int = 2,
    paused: bool = False,
    **environment: str,
):
    """What a watch says to twelve seconds of calls that wait ``waited`` of their time."""
    for name in load.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    clock = [0.0]
    stat = tasks / "main" / "schedstat"
    monkeypatch.setattr(load.time, "perf_counter", lambda: clock[0])
    said: list[str] = []
    watch = SpinWatch(lambda: threads, said.append)
    # After the watch is made, as the command does it.
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    @watch
    def inner() -> None:
        clock[0] += 0.1
        ran, kept = int(1e9 * (1 - waited) * clock[0]), int(1e9 * waited * clock[0])
        stat.write_text(f"{ran} {kept} 7\n")

    @watch
    def work() -> str:
        inner()
        return "result"

    write_tasks(tasks, main=(0.0, 0.0))
    with watch.paused() if paused else contextlib.nullcontext():
        assert all(work() == "result" for _ in range(120))
    return said


def test_spinning_beside_other_work_is_told_once(tasks, monkeypatch):
    (line,) = watch_calls(monkeypatch, tasks, 0.5)
    assert "OMP_WAIT_POLICY=passive" in line and "waited for a core 50 %" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "case",
    [
        {"waited": 0.05},
        {"waited": 0.5, "threads": 1},
        {"waited": 0.5, "OMP_WAIT_POLICY": "passive"},
        {"waited": 0.5, "paused": True},
    ],
    ids=["quiet", "one thread", "passive", "paused"],
)
def test_nothing_is_said_where_nothing_is_to_be_done(case, tasks, monkeypatch):
    assert watch_calls(monkeypatch, tasks, **case) == []


def test_the_time_to_look_is_small(tasks, monkeypatch):
    """Threads are looked at twice a stretch and not at every call."""
    looks = []
    monkeypatch.setattr(load, "LoadMeter", lambda: looks.append(0) or Meter())

    class Meter:
        def read(self) -> Load:
            looks.append(0)
            return Load(0.0, 2, 0.0)

    watch_calls(monkeypatch, tasks, 0.0)
    assert 2 <= len(looks) <= 2 * (12 / 5.5 + 1)
