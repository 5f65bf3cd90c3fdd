"""The one thread that has the model, and photographs that come as bytes."""

from __future__ import annotations

import os
import queue
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fastalign.errors import InputError
from fastalign.line.scorer import MOST_FAULTS, LineScorer, Photograph, reason_of
from fastalign.models.detail import Detail

if TYPE_CHECKING:
    import torch


class Scored(NamedTuple):
    """What a model says of a photograph, and who says the verdict, by its thresholds."""

    scorer: LineScorer
    detail: Detail


class Busy(Exception):
    """As many photographs as may wait do."""


Task = tuple["Future[Scored]", "torch.Tensor"]


class Worker:
    """Scores photographs in the order in which they are given. It does nothing else, so that the
    model never waits.

    Those that wait are scored together, as far as :class:`LineScorer` has it.

    Args:
        scorer: has the model.
        most: photographs that wait at most.
    """

    def __init__(self, scorer: LineScorer, most: int) -> None:
        self._scorer = scorer
        self._tasks: queue.Queue[Task | None] = queue.Queue(most)
        self._thread = threading.Thread(target=self._work, name="fastalign-model", daemon=True)
        self._faults = 0
        self._ending = False

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, after what waits."""
        self._tasks.put(None)
        self._thread.join(timeout=30)

    @property
    def waiting(self) -> int:
        """Photographs that wait."""
        return self._tasks.qsize()

    @property
    def alive(self) -> bool:
        """Whether verdicts come: the last photographs did not all end in an error."""
        return self._thread.is_alive() and self._faults < MOST_FAULTS

    def go_on_with(self, scorer: LineScorer) -> None:
        """Score by another model from the next photograph on; its images have the same size."""
        self._scorer = scorer

    def ended(self, *, well: bool) -> None:
        """A photograph has its verdict, or has ended in an error."""
        self._faults = 0 if well else self._faults + 1

    def score(self, prepared: torch.Tensor) -> Future[Scored]:
        """What the model says of a photograph that :meth:`LineScorer.prepare` gave, when its turn
        has come. Cancel what nobody waits for any more.

        Raises:
            Busy: too many wait.
        """
        future: Future[Scored] = Future()
        try:
            self._tasks.put_nowait((future, prepared))
        except queue.Full:
            raise Busy from None
        return future

    def _work(self) -> None:
        while tasks := self._waiting():
            running = [task for task in tasks if task[0].set_running_or_notify_cancel()]
            if running:
                self._score(running)

    def _waiting(self) -> list[Task]:
        """The next photographs; none: it ends."""
        found: list[Task] = []
        while not self._ending and len(found) < self._scorer.at_once:
            try:
                task = self._tasks.get(block=not found)
            except queue.Empty:
                break
            if task is None:
                self._ending = True
            else:
                found.append(task)
        return found

    def _score(self, tasks: list[Task]) -> None:
        scorer = self._scorer
        details = scorer.score([prepared for _, prepared in tasks])
        for (future, _), detail in zip(tasks, details, strict=True):
            if isinstance(detail, Exception):
                # Whoever asked gets it.
                self.ended(well=False)
                future.set_exception(detail)
            else:
                future.set_result(Scored(scorer, detail))


def decode_bytes(data: bytes, name: str, read: Callable[[Path], Photograph]) -> Photograph:
    """A photograph from what its file holds.

    Args:
        data: the file's bytes.
        name: what messages call it.
        read: reads a file, or raises InputError.

    Raises:
        InputError: it cannot be read; the message names it and no file of this machine.
    """
    # Some formats are read from files alone, and one way is enough.
    descriptor, place = tempfile.mkstemp(prefix="fastalign-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        return read(Path(place))
    except InputError as error:
        raise InputError(reason_of(error).replace(place, name)) from None
    finally:
        os.unlink(place)
