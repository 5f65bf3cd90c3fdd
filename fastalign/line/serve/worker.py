"""The one thread that has the model, and photographs that come as bytes."""

from __future__ import annotations

import os
import queue
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fastalign.engine.table import Row
from fastalign.errors import InputError
from fastalign.line.scorer import MOST_FAULTS, LineScorer, Photograph

Answer = tuple[Row, npt.NDArray[np.float32]]


class Busy(Exception):
    """As many photographs as may wait do."""


class Worker:
    """Judges photographs in the order in which they are given; one at a time, so that a score is
    the same whoever else asks.

    Args:
        scorer: judges them.
        most: photographs that wait at most.
    """

    def __init__(self, scorer: LineScorer, most: int) -> None:
        self._scorer = scorer
        self._tasks: queue.Queue[tuple[Future[Answer], str, Photograph] | None] = queue.Queue(most)
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
        """Judge by another model from the next photograph on."""
        self._scorer = scorer

    def judge(self, name: str, image: Photograph) -> Future[Answer]:
        """The row and the map ``[H,W]`` of a photograph, when its turn has come. Cancel what
        nobody waits for any more.

        Raises:
            Busy: too many wait.
        """
        future: Future[Answer] = Future()
        try:
            self._tasks.put_nowait((future, name, image))
        except queue.Full:
            raise Busy from None
        return future

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, name, image = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                judged = self._scorer.judge(name, image)
                future.set_result((judged.row, judged.map.float().cpu().numpy()))
                self._faults = 0
            except BaseException as error:
                # Whoever asked gets it; the next photograph has its turn.
                self._faults += 1
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
