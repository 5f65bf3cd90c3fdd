"""The kernels under ThreadSanitizer: four threads on small tensors, and the results of one thread.

As recorded for the baseline, since the sharing of work is the same code at every instruction set;
``make sanitize-threads`` runs it here and now, for all that the machine has.
"""

from __future__ import annotations

import os

import pytest
import races
from records import checks
from records.store import known

LEVELS = os.environ.get("FASTALIGN_RACE_LEVELS", "").split()
ALL_RIGHT = {"compared": "200 comparisons, 0 failed", "provoked": "data race"}


@pytest.fixture(autouse=True)
def library() -> None:
    """Not needed here, so its absence is no reason to skip."""


@pytest.fixture
def can_run() -> None:
    try:
        races.launcher()
    except races.CannotRun as reason:
        pytest.skip(str(reason))


def test_threads_share_nothing_they_write_and_a_race_would_be_found():
    """A check that finds nothing where two threads do the same proves nothing."""
    assert known(checks.RACES)["baseline"] == ALL_RIGHT


# Many places: of accesses in one instant the detector may miss one, and a thread that starts late
# or early meets the other in none of a few.
RACE = """
#include <thread>
volatile int shared[1 << 16];
void write_all(int value) {
  for (volatile int& place : shared) place = value;
}
int main(int argc, char**) {
  std::thread other(write_all, 1);
  if (argc > 1) write_all(2);
  other.join();
}
"""


@pytest.mark.slow
def test_the_detector_works_here(can_run, tmp_path):
    source, program = tmp_path / "race.cpp", tmp_path / "race"
    source.write_text(RACE)
    done = races.run([*races.CXX.split(), *races.FLAGS, source, "-pthread", "-o", program])
    assert done.returncode == 0, done.stderr
    assert races.run([*races.launcher(), program]).returncode == 0
    found = races.run([*races.launcher(), program, "race"])
    assert found.returncode != 0 and "ThreadSanitizer: data race" in found.stderr


if LEVELS:

    @pytest.mark.slow
    @pytest.mark.parametrize("level", LEVELS)
    def test_a_level_here_and_now(level, can_run, tmp_path):
        if level != "baseline":
            from fastalign import _C

            if not _C.cpu_isa_levels().get(level):
                pytest.skip(f"this machine cannot run {level}")
        program = races.build(level, tmp_path)
        found = {"compared": races.compare(program), "provoked": races.provoke(program)}
        assert found == ALL_RIGHT
