"""The one thread that feeds the model, and photographs that come as bytes."""

from __future__ import annotations

import os
import queue
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

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


class Task(NamedTuple):
    """A photograph uint8 ``[3,H,W]`` of the model's size, and who waits for what is said of it."""

    future: Future[Scored]
    prepared: torch.Tensor


class ServedModel(Protocol):
    """A model that scores photographs, here or elsewhere.

    Attributes:
        scorer: by which verdicts are said.
    """

    scorer: LineScorer

    @property
    def alive(self) -> bool:
        """Whether it answers."""

    def submit(self, tasks: Sequence[Task]) -> None:
        """Score photographs, or see that it is done; each future gets what the model says, or its
        error."""

    def close(self) -> None:
        """End, after what was submitted."""


class LocalModel:
    """Scores photographs where it is asked to."""

    alive = True

    def __init__(self, scorer: LineScorer) -> None:
        self.scorer = scorer

    def submit(self, tasks: Sequence[Task]) -> None:
        """Score photographs together."""
        running = [task for task in tasks if task.future.set_running_or_notify_cancel()]
        details = self.scorer.score([task.prepared for task in running]) if running else []
        for task, detail in zip(running, details, strict=True):
            if isinstance(detail, Exception):
                task.future.set_exception(detail)
            else:
                task.future.set_result(Scored(self.scorer, detail))

    def close(self) -> None:
        """Nothing is left to do."""


class Worker:
    """Gives photographs to the model in the order in which they come. Its thread does nothing else,
    so that the model never waits.

    Those that wait are scored together, as far as :class:`LineScorer` has it.

    Args:
        model: scores them.
        most: photographs that wait at most.
    """

    def __init__(self, model: ServedModel, most: int) -> None:
        self._model = model
        self._one_model = threading.Lock()
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
        self._model.close()

    @property
    def waiting(self) -> int:
        """Photographs that wait."""
        return self._tasks.qsize()

    @property
    def alive(self) -> bool:
        """Whether verdicts come: the last photographs did not all end in an error."""
        return self._thread.is_alive() and self._model.alive and self._faults < MOST_FAULTS

    def go_on_with(self, model: ServedModel) -> None:
        """Score by another model from the next photograph on; its images have the same size."""
        with self._one_model:
            before, self._model = self._model, model
        before.close()

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
        future.add_done_callback(self._look_at)
        try:
            self._tasks.put_nowait(Task(future, prepared))
        except queue.Full:
            raise Busy from None
        return future

    def _look_at(self, future: Future[Scored]) -> None:
        if not future.cancelled() and future.exception() is not None:
            # Whoever asked gets it.
            self.ended(well=False)

    def _work(self) -> None:
        while tasks := self._waiting():
            with self._one_model:
                self._model.submit(tasks)

    def _waiting(self) -> list[Task]:
        """The next photographs; none: it ends."""
        found: list[Task] = []
        while not self._ending and len(found) < self._model.scorer.at_once:
            try:
                task = self._tasks.get(block=not found)
            except queue.Empty:
                break
            if task is None:
                self._ending = True
            else:
                found.append(task)
        return found


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
