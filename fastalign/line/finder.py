"""A thread that finds photographs in a folder and reads them ahead of the model."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fastalign.errors import InputError
from fastalign.line.arrivals import Settling, as_it_is, look_for_photographs
from fastalign.line.journal import Arrival, Journal
from fastalign.line.scorer import Photograph, reason_of
from fastalign.line.wake import Events

# Without events the folder is looked at so often; with them now and then all the same.
POLL_SECONDS, CHECK_SECONDS = 1.0, 30.0
# Looking takes at most this share of the time.
_LOOKING, _SHORTEST = 0.25, 0.05
# Seconds after its time at which a file that is gone has been there.
_LATE = 1.0
_GONE = "it was taken away before it could be read"


@dataclass(frozen=True)
class Found:
    """A photograph that is complete: its pixels, or why it cannot be read."""

    arrival: Arrival
    image: Photograph | None
    reason: str = ""


class Finder:
    """Finds photographs without a line in the journal and puts them into a bounded queue.

    Args:
        folder: where they come in.
        apart: the output folder, which may lie in it.
        journal: knows what is done.
        read: reads a file, or raises InputError.
        settle, patience: of :class:`fastalign.line.arrivals.Settling`, in seconds.
        poll: seconds between two looks at the folder; None: 1, and 30 while events tell of changes.
        events: whether the system's events wake it.
        ahead: photographs that are read before the model is ready for them.
        once: end when nothing is left.
        note: told what a user may want to know.

    Attributes:
        found: where they are, for :meth:`take`; None is its end.
        failure: what ended it early.
    """

    def __init__(
        self,
        folder: Path,
        apart: Path,
        journal: Journal,
        read: Callable[[Path], Photograph],
        *,
        settle: float,
        patience: float,
        poll: float | None,
        events: bool,
        ahead: int,
        once: bool,
        note: Callable[[str], None],
    ) -> None:
        self._folder, self._apart = folder, os.path.realpath(apart)
        self._journal, self._read, self._once, self._note = journal, read, once, note
        # Without events, in case they are lost.
        self._fallback = POLL_SECONDS if poll is None else poll
        self._poll = CHECK_SECONDS if poll is None and events else self._fallback
        self._settling = Settling(settle, patience, time.monotonic)
        self._wake, self._stop = threading.Event(), threading.Event()
        self._events = Events(folder, self._wake, self._without_events) if events else None
        self._handed: set[str] = set()
        self._handing = threading.Lock()
        self._away = self._ended = False
        self.found: queue.Queue[Found | None] = queue.Queue(ahead)
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="fastalign-finder", daemon=True)

    def start(self) -> None:
        """Begin."""
        if self._events is not None:
            self._events.start()
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for it."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=30)
        if self._events is not None:
            self._events.stop()

    def take(self, most: int) -> list[Found] | None:
        """So many of the next photographs as are there, none after a while without any; None: there
        are no more, or it was ended early (``failure``)."""
        found: list[Found] = []
        while not self._ended and len(found) < most:
            try:
                one = self.found.get_nowait() if found else self.found.get(timeout=0.2)
            except queue.Empty:
                break
            if one is None:
                self._ended = True
            else:
                found.append(one)
        return None if self._ended and not found else found

    def done(self, arrival: Arrival) -> None:
        """Its line is in the journal."""
        with self._handing:
            self._handed.discard(arrival.key)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            # Whoever takes from the queue raises it.
            self.failure = error
        finally:
            self._put(None)

    def _work(self) -> None:
        next_look = earliest = 0.0
        while not self._stop.is_set():
            began = time.monotonic()
            looked = began >= next_look
            left = looked and self._look()
            if looked:
                ended = time.monotonic()
                earliest = ended + max(_SHORTEST, (ended - began) / _LOOKING)
                next_look = max(earliest, ended + self._poll)
            for arrival in self._settling.due():
                if self._stop.is_set():
                    return
                self._try(arrival)
            if self._once and looked and not left and not len(self._settling):
                return
            pause = max(0.0, next_look - time.monotonic())
            due = self._settling.next_due()
            if self._wake.wait(pause if due is None else min(pause, max(due, 0.01))):
                self._wake.clear()
                next_look = min(next_look, max(earliest, time.monotonic()))

    def _look(self) -> bool:
        """Look at the folder; whether there is anything without a line."""
        left = False
        try:
            for arrival in look_for_photographs(self._folder, self._apart):
                if self._stop.is_set():
                    return True
                if not self._is_done(arrival):
                    left = True
                    self._settling.see(arrival)
        except OSError as error:
            # A drive that is away comes back; until then there is nothing to see.
            self._lost(error)
            return True
        self._away = False
        return left

    def _without_events(self, reason: str) -> None:
        self._poll = self._fallback
        self._note(reason)

    def _lost(self, error: OSError) -> None:
        if not self._away:
            self._note(f"{self._folder} cannot be listed ({error.strerror}); waiting for it")
        self._away = True

    def _is_done(self, arrival: Arrival) -> bool:
        key = arrival.key
        with self._handing:
            return key in self._handed or self._journal.knows(key)

    def _try(self, arrival: Arrival) -> None:
        """Read a file whose time has come; it is the queue's if it has not changed meanwhile."""
        image, reason = None, ""
        try:
            present = as_it_is(self._folder, arrival)
            if present == arrival:
                try:
                    image = self._read(self._folder / arrival.name)
                except InputError as error:
                    reason = reason_of(error)
                if (after := as_it_is(self._folder, arrival)) is not None or image is None:
                    present = after
        except OSError as error:
            self._lost(error)
            self._settling.take(arrival)
            return
        if present is not None and present != arrival:
            self._settling.see(present)
        elif image is not None:
            self._hand(Found(arrival, image))
        elif present is None:
            # Gone when its time came, it was not there for as long as a photograph has to be, as a
            # file that is renamed in the end. Later, it was there and is missed.
            if reason or self._settling.late(arrival) > _LATE:
                self._hand(Found(arrival, None, _GONE))
            self._settling.take(arrival)
        elif not self._settling.postpone(arrival):
            self._hand(Found(arrival, None, reason))

    def _hand(self, found: Found) -> None:
        with self._handing:
            self._handed.add(found.arrival.key)
        self._settling.take(found.arrival)
        self._put(found)

    def _put(self, found: Found | None) -> None:
        while True:
            try:
                self.found.put(found, timeout=0.2)
                return
            except queue.Full:
                if self._stop.is_set():
                    return
