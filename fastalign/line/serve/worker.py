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
from fastalign.line.scorer import MOST_FAULTS, LineScorer, Photograph
from fastalign.models.detail import Detail

if TYPE_CHECKING:
    import torch


class Scored(NamedTuple):
    """What a model says of a photograph, and who says the verdict, by its thresholds."""

    scorer: LineScorer
    detail: Detail


class Busy(Exception):
    """As many photographs as may wait do."""


class Worker:
    """Scores photographs in the order in which they are given; one at a time, so that a score is
    the same whoever else asks. It does nothing else, so that the model never waits.

    Args:
        scorer: has the model.
        most: photographs that wait at most.
    """

    def __init__(self, scorer: LineScorer, most: int) -> None:
        self._scorer = scorer
        self._tasks: queue.Queue[tuple[Future[Scored], torch.Tensor] | None] = queue.Queue(most)
        self._thread = threading.Thread(target=self._work, name="fastalign-model", daemon=True)
        self._faults = 0

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
        while (task := self._tasks.get()) is not None:
            future, prepared = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                scorer = self._scorer
                future.set_result(Scored(scorer, scorer.score(prepared)))
            except BaseException as error:
                # Whoever asked gets it; the next photograph has its turn.
                self.ended(well=False)
                future.set_exception(error)


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
        raise InputError(str(error).replace(place, name)) from None
    finally:
        os.unlink(place)
