"""Telling others of a photograph or a drift: a command or a web address, from a thread of its own.

Whatever becomes of it is a line of the journal; the line of photographs goes on. A run that was
killed between a verdict and its message sends the message when it goes on, so that one is sent at
least once.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from fastalign.line.journal import NOTIFIED, PHOTOGRAPH
from fastalign.line.messages import Messages, NotSent, Send

# Messages that wait at most; of those beyond, the journal says that they were not sent.
MOST_WAITING = 1000
_FIRST_PAUSE = 1.0


class Notifier:
    """Sends lines of the journal, in their order, without holding up who gives them.

    Args:
        messages: to whom.
        journal: told what became of each; a line of its own.
        folder: of the photographs.
    """

    def __init__(
        self, messages: Messages, journal: Callable[[str, dict[str, Any]], Any], folder: str
    ) -> None:
        self._messages, self._journal, self._folder = messages, journal, folder
        self._waiting: queue.Queue[tuple[dict[str, Any], list[tuple[str, Send]]]]
        self._waiting = queue.Queue(MOST_WAITING)
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="fastalign-notify", daemon=True)

    @property
    def wanted(self) -> bool:
        """Whether anybody is told."""
        return bool(self._messages.ways)

    def start(self) -> None:
        """Begin."""
        if self.wanted:
            self._thread.start()

    def tell(self, line: dict[str, Any], left: Sequence[str] | None = None) -> None:
        """Send a line when those before it are sent, by the ways named in ``left``; None: by all.

        Raises:
            InputError: the journal cannot be written.
        """
        if self._failure is not None:
            raise self._failure
        ways = [way for way in self._messages.ways if left is None or way[0] in left]
        try:
            self._waiting.put_nowait((line, ways))
        except queue.Full:
            for name, _ in ways:
                self._note(name, line, f"not sent: {MOST_WAITING} others waited", 0, [])

    def stop(self, patience: float) -> None:
        """End: lines that wait are sent for so many seconds; the next run sends the others."""
        if not self.wanted:
            return
        end = time.monotonic() + patience
        while self._waiting.unfinished_tasks and time.monotonic() < end and self._thread.is_alive():
            time.sleep(0.02)
        self._stop.set()
        self._thread.join(timeout=max(0.1, end - time.monotonic()) + self._messages.timeout)

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                line, ways = self._waiting.get(timeout=0.1)
            except queue.Empty:
                continue
            try:
                sent = {**line, "file": os.path.join(self._folder, _photograph(line))}
                while ways:
                    (name, send), *ways = ways
                    outcome, attempts = self._send(send, sent)
                    if outcome is None:
                        return
                    self._note(name, line, outcome, attempts, [way for way, _ in ways])
                self._waiting.task_done()
            except Exception as error:
                # The journal cannot be written: handed to whoever tells the next line.
                self._failure = error
                return

    def _send(self, send: Send, line: dict[str, Any]) -> tuple[str | None, int]:
        """What became of a line, None where the run ends before that is known; and attempts."""
        pause, attempt = _FIRST_PAUSE, 1
        while True:
            try:
                send(line)
                return "sent", attempt
            except NotSent as error:
                if attempt > self._messages.retries:
                    return f"not sent: {error}", attempt
            if self._stop.wait(pause):
                return None, attempt
            pause, attempt = 2 * pause, attempt + 1

    def _note(
        self, name: str, line: dict[str, Any], outcome: str, attempts: int, left: list[str]
    ) -> None:
        about = {"by": name, "outcome": outcome, "attempts": attempts, "left": left}
        self._journal(NOTIFIED, {"path": _photograph(line), "key": line["key"], **about})


def _photograph(line: dict[str, Any]) -> str:
    """The one that a line is about; of a drift, with which it was certain."""
    path: str = line["path"] if line["event"] == PHOTOGRAPH else line["at"]
    return path
