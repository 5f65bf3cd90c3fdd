"""``fastalign watch``: photographs in a folder are judged as they are written."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastalign.data import Depth
from fastalign.drift.settings import INTERVAL
from fastalign.drift.statement import Statement
from fastalign.engine.drift import NO_NORMAL, drift_interval, monitor_of
from fastalign.engine.pictures import PictureOptions, PictureWriter
from fastalign.engine.runfolder import reserve
from fastalign.engine.scoring import thresholds
from fastalign.errors import ConfigError, InputError
from fastalign.line.drift import DRIFT, LineDrift
from fastalign.line.finder import Finder
from fastalign.line.journal import JOURNAL, Journal
from fastalign.line.judge import LineJudge
from fastalign.line.messages import Messages
from fastalign.line.notify import Notifier
from fastalign.line.scorer import AT_ONCE, LineScorer
from fastalign.line.wake import choose
from fastalign.numeric import real_number, whole_number
from fastalign.verdict import Verdict

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD

# What others can be told of.
_TOLD_OF = (*(verdict.text for verdict in Verdict), DRIFT)
_LAST_MESSAGES = 10.0


def watch_folder(
    model: FYD,
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    outputs: Sequence[str] = (),
    save_all: bool = False,
    picture_size: int | str | None = None,
    threshold: float | None = None,
    pixel_threshold: float | None = None,
    least_area: float = 0.0,
    drift: int = INTERVAL,
    settle: float = 1.0,
    patience: float = 10.0,
    poll: float | None = None,
    events: str = "auto",
    ahead: int = 4,
    at_once: int = AT_ONCE,
    messages: Messages | None = None,
    notify: Sequence[str] = ("anomaly",),
    once: bool = False,
    depth: Depth | None = None,
    stop: threading.Event | None = None,
    tell: Callable[[dict[str, Any]], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> int:
    """Judge the photographs in a folder and below, those that are there and those that come, until
    ``stop`` is set; returns how many this run has judged.

    ``out/verdicts.jsonl`` gets a line for each, which is on the disk as soon as it is judged.
    Called again with the same folders it goes on: what has a line is not judged again, and
    everything else is, however the run before ended. A file that is written again is another
    photograph.

    Args:
        model: a fitted model; the device it is on is used.
        folder: where photographs come in; they are only read.
        out: folder to write to; it may lie in ``folder``.
        outputs: which of ``"map"``, ``"mask"``, ``"overlay"`` to write, of photographs that are not
            good.
        save_all: of good ones as well.
        picture_size: as in :func:`fastalign.engine.predict_paths`.
        threshold, pixel_threshold, least_area: as in :func:`fastalign.engine.predict_paths`.
        drift: photographs between two false statements of drift on average, each of which is a line
            as well; 0: drift is not looked for. Photographs are taken to come in their order.
        settle: seconds that a file must have stayed as it is.
        patience: seconds that a file which cannot be read is waited for before it gets its line.
        poll: seconds between two looks; None: 1, and 30 where events tell of changes.
        events: ``"auto"``, ``"events"`` or ``"poll"`` (:func:`fastalign.line.wake.choose`).
        ahead: photographs that are read before the model is ready for them.
        at_once: of these, scored together at most; the scores are the same to the bit.
        messages: who is told; None: nobody.
        notify: verdicts that they are told of, and ``"drift"`` for what is said of it.
        once: end when nothing is left.
        depth: of 16-bit files that state none, in place of the model's.
        stop: ends the run, after the photograph that it is at.
        tell: given each line.
        note: told what a user may want to know.

    Raises:
        ConfigError: an option has no such value.
        BackendError: events are asked for, and their package is missing.
        InputError: ``folder`` is none, or ``out`` cannot be written or belongs to another run.
    """
    options = PictureOptions(_pictures(outputs), size=picture_size)
    settle = real_number("settle", settle, 0, 3600)
    patience = real_number("patience", patience, 0, 3600)
    ahead = whole_number("ahead", ahead, 1, 1000)
    least_area = real_number("least area", least_area, 0)
    interval = drift_interval(drift)
    for kind in notify:
        if kind not in _TOLD_OF:
            raise ConfigError(f"--notify {kind!r}: use any of {', '.join(_TOLD_OF)}.")
    folder, out = Path(folder), Path(out)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the one that photographs come into.")
    with_events = choose(events, folder)
    if poll is not None:
        poll = real_number("poll", poll, 0.01, 3600)
    limits = thresholds(model).given(threshold, pixel_threshold)
    monitor = monitor_of(model, interval)
    drifting = LineDrift(monitor)
    scorer = LineScorer(
        model,
        limits,
        least_area=least_area,
        depth=depth,
        at_once=at_once,
        conditions=monitor is not None,
    )
    stop, note = stop or threading.Event(), note or _silent
    with ExitStack() as stack:
        stack.enter_context(reserve(out, JOURNAL))
        journal = Journal(out / JOURNAL, drifting.replay)
        stack.callback(journal.close)
        if journal.photographs:
            note(f"{out / JOURNAL}: {journal.photographs} judged before, going on")
        if interval and monitor is None:
            note(NO_NORMAL)
        begin = {"image_threshold": limits.image, "pixel_threshold": limits.pixel}
        journal.add("begin", {**begin, "folder": str(folder), **drifting.begin()})
        notifier = Notifier(messages or Messages(), journal.add, os.path.abspath(folder))
        notifier.start()
        stack.callback(notifier.stop, _LAST_MESSAGES)
        if notifier.wanted:
            for line, left in journal.unnotified:
                notifier.tell(line, left)

        def say(statements: list[Statement]) -> list[dict[str, Any]]:
            notified = notifier.wanted and DRIFT in notify
            lines = drifting.tell(statements, journal, notify=notified)
            for line in lines if notified else ():
                notifier.tell(line)
            return lines

        say(drifting.unsaid())
        finder = Finder(
            folder,
            out,
            journal,
            scorer.read,
            settle=settle,
            patience=patience,
            poll=poll,
            events=with_events,
            ahead=ahead,
            once=once,
            note=note,
        )
        finder.start()
        stack.callback(finder.stop)
        writer = PictureWriter(out, options, limits)
        judging = LineJudge(scorer, writer, journal, notifier, tuple(notify), save_all, note)
        while not stop.is_set() and (found := finder.take(scorer.at_once)) is not None:
            for one, written in zip(found, judging.add(found), strict=True):
                finder.done(one.arrival)
                said = say(drifting.add(written))
                if tell is not None:
                    for line in (written, *said):
                        tell(line)
        if finder.failure is not None:
            raise finder.failure
        journal.add("end", {"judged": judging.judged})
    return judging.judged


def _pictures(outputs: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in outputs if name != "regions")


def _silent(text: str) -> None:
    pass
