"""One process fails, or falls silent: what the others are told."""

from __future__ import annotations

import distributed_work as work
import pytest


def test_an_error_of_one_is_the_error_of_all(processes):
    said = [result[0] for result in processes(3, "failing", who=1, kind="input")]
    for rank, (each, first) in enumerate(said):
        names_it = "" if rank == 1 else "process 1: "
        assert each == ("InputError", f"{names_it}bad.png: cannot be read")
        names_it = "" if rank == 0 else "process 0: "
        assert first == ("InputError", f"{names_it}bad.png: cannot be read")


def test_a_foreign_error_keeps_its_name(processes):
    results = processes(2, "failing", who=0, kind="other")
    assert results[0][0][0] == ("KeyError", "'x'")
    assert results[1][0][0] == ("ProcessError", "process 0: KeyError: 'x'")


def test_they_can_go_on_afterwards(processes):
    assert [result[1] for result in processes(2, "failing", who=1, kind="input")] == [2.0, 2.0]


def test_a_silent_process_is_named_by_what_was_waited_for(processes):
    said = processes(2, "silent", seconds=1)[0]
    assert "process 0 of 2: the sum of targets ended after" in said
    assert "--timeout" in said and "1000ms" in said


def test_a_world_of_one_does_the_work_itself():
    assert work.ONE.once(lambda: 3, "something") == 3
    with pytest.raises(KeyError), work.ONE.together("something"):
        raise KeyError
