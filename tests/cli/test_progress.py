import io
import sys

import pytest

from fastalign.cli import progress
from fastalign.cli.progress import LineProgress, LiveProgress, make_progress
from fastalign.models.progress import NoProgress, tell_detail


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(("details", "loss"), [(False, ""), (True, ", loss 0.1235")])
def test_lines_begin_end_and_time_left(capsys, clock, details, loss):
    with LineProgress(details) as shown:
        shown.start("training", 10)
        shown.log({"loss": 0.123456})
        clock[0] += 4
        shown.advance()
        clock[0] += 8
        shown.advance(2)
        clock[0] += 8
        shown.advance(7)
    assert capsys.readouterr().err.splitlines() == [
        "training: 10 steps",
        f"training: 3/10, about 28 s left{loss}",
        f"training: done in 20 s{loss}",
    ]


@pytest.mark.parametrize("details", [False, True])
def test_the_inside_is_shown_to_those_who_ask(capsys, details):
    with LineProgress(details) as shown:
        tell_detail(shown, "memory: about 1 MB")
        tell_detail(NoProgress(), "nothing")
    assert capsys.readouterr().err == ("memory: about 1 MB\n" if details else "")


def test_more_steps_than_announced_do_no_harm(capsys, clock):
    with LineProgress() as shown:
        shown.start("scoring", 1)
        shown.advance()
        clock[0] += 60
        shown.advance()
        shown.start("empty", 0)
    assert "done" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_bars_and_a_pipe_gets_lines(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with make_progress() as shown:
        assert isinstance(shown, LiveProgress)
        shown.start("training", 3)
        shown.log({"loss": 0.5})
        shown.advance(3)
        shown.start("next [bold]", 1)
        shown.advance()
    text = sys.stderr.getvalue()
    assert "training" in text and "3/3" in text and "[bold]" in text
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(make_progress(), LineProgress)
