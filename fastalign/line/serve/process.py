"""A model in a process of its own, whose interpreter nobody else holds up."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

import fastalign
from fastalign.errors import BackendError
from fastalign.line.scorer import LineScorer
from fastalign.line.serve.worker import Scored, Task
from fastalign.load import keep_freed_memory
from fastalign.models.detail import Detail

# Batches that are under way: the one that is scored, and the next one.
_BATCHES = 2
_READY = "ready"
_SECONDS = 30
# Bytes that a pipe holds, where the system can be asked for them: fewer turns for each photograph.
_PIPE = 1 << 20
# A command of its own, so that it does not matter how this process began: multiprocessing would
# run the script of that once more.
_COMMAND = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    f"from {__name__} import work; work()"
)

# The bytes of a tensor, which numpy need not know the type of.
_Packed = tuple[torch.dtype, tuple[int, ...], Any]
# Number of a photograph, and what the model says of it or the traceback that it ended in.
_Answer = tuple[int, "list[_Packed] | str"]


class ModelProcess:
    """Scores photographs by a copy of a model in another process.

    That process scores what has come together, as far as :class:`LineScorer` has it, and ends with
    this one, whatever ends it. Signals that are meant for all processes of a service leave it to
    this one to end it.

    Args:
        scorer: has the model, on a CPU.
        on_end: told, by a thread, where the other process ends without being asked to.

    Raises:
        BackendError: the other process does not start.
    """

    def __init__(self, scorer: LineScorer, on_end: Callable[[], Any] | None = None) -> None:
        self.scorer = scorer
        self._on_end = on_end
        self._room = threading.Semaphore(_BATCHES * scorer.at_once)
        self._lock = threading.Lock()
        self._pending: dict[int, Task] = {}
        self._number = 0
        self._closing = self._ended = False
        self._process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pipesize=_PIPE,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        try:
            for given in (_paths(), torch.get_num_threads(), scorer):
                _send(given, self._to)
            assert pickle.load(self._from) == _READY
        except (EOFError, OSError):
            raise BackendError(f"{self._end()}, before it had read the model.") from None
        self._thread = threading.Thread(target=self._receive, name="fastalign-answers", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """Of the other process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it answers."""
        return not self._ended

    def submit(self, tasks: Sequence[Task]) -> None:
        """Take photographs in, as soon as there is room; their futures get what it says."""
        for task in tasks:
            self._room.acquire()
            if not task.future.set_running_or_notify_cancel():
                self._room.release()
                continue
            with self._lock:
                self._number += 1
                number = self._number
                self._pending[number] = task
            try:
                _send((number, task.prepared.numpy()), self._to)
            except OSError:
                # The thread that receives fails those that it finds; this one came behind it.
                if self._ended:
                    self._fail()

    def close(self) -> None:
        """End it, after what was submitted."""
        self._closing = True
        # It ends where nothing more comes.
        with contextlib.suppress(OSError):
            self._to.close()
        self._thread.join(_SECONDS)
        try:
            self._process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _receive(self) -> None:
        while True:
            try:
                number, found = pickle.load(self._from)
            except (EOFError, OSError, pickle.UnpicklingError):
                break
            with self._lock:
                task = self._pending.pop(number)
            self._room.release()
            if isinstance(found, str):
                task.future.set_exception(RuntimeError(found))
            else:
                task.future.set_result(Scored(self.scorer, Detail(*map(_unpacked, found))))
        self._ended = True
        self._fail()
        if not self._closing and self._on_end is not None:
            self._on_end()

    def _fail(self) -> None:
        """Nothing more comes."""
        with self._lock:
            left = list(self._pending.values())
            self._pending.clear()
        for task in left:
            self._room.release()
            task.future.set_exception(BackendError(self._end()))

    def _end(self) -> str:
        code = self._process.wait(_SECONDS)
        return f"the process that has the model has ended with exit code {code}"


def _paths() -> list[str]:
    """Where Python looks, without what is another ``fastalign``, such as a script of that name."""
    name, own = fastalign.__name__, str(Path(fastalign.__file__).parents[1])
    return [path for path in sys.path if PathFinder.find_spec(name, [path]) is None] + [own]


def _send(value: Any, file: IO[bytes]) -> None:
    pickle.dump(value, file, pickle.HIGHEST_PROTOCOL)
    file.flush()


def _packed(tensor: Tensor) -> _Packed:
    # The stride of one single value may be any.
    flat = tensor.contiguous().as_strided((tensor.numel(),), (1,))
    return tensor.dtype, tuple(tensor.shape), flat.view(torch.uint8).numpy()


def _unpacked(packed: _Packed) -> Tensor:
    dtype, shape, values = packed
    return torch.from_numpy(values).view(dtype).reshape(shape)


# The other process --------------------------------------------------------------------------------


def work() -> None:
    """Score what comes on standard input; what is said goes to standard output."""
    for told in (signal.SIGINT, signal.SIGTERM):
        signal.signal(told, signal.SIG_IGN)
    given, said = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # Whatever else is printed is for the log.
    os.dup2(2, 1)
    keep_freed_memory()
    torch.set_num_threads(pickle.load(given))
    scorer: LineScorer = pickle.load(given)
    # The first one takes longer; nobody waits for it here.
    scorer.score([torch.zeros(3, *scorer.image_size, dtype=torch.uint8)])
    # The model waits neither for what comes nor for what goes.
    arrived: queue.SimpleQueue[tuple[int, Any] | None] = queue.SimpleQueue()
    answers: queue.SimpleQueue[_Answer | None] = queue.SimpleQueue()
    threading.Thread(target=_take, args=(given, arrived), daemon=True).start()
    sender = threading.Thread(target=_answer, args=(said, answers), daemon=True)
    sender.start()
    _send(_READY, said)
    while photographs := _next(arrived, scorer.at_once):
        numbers, prepared = zip(*photographs, strict=True)
        details = scorer.score([torch.from_numpy(values) for values in prepared])
        for number, detail in zip(numbers, details, strict=True):
            answers.put((number, _told(detail)))
    answers.put(None)
    sender.join()


def _take(given: IO[bytes], arrived: queue.SimpleQueue[tuple[int, Any] | None]) -> None:
    with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
        while True:
            arrived.put(pickle.load(given))
    arrived.put(None)


def _next(arrived: queue.SimpleQueue[tuple[int, Any] | None], most: int) -> list[tuple[int, Any]]:
    """Photographs that have come, one at least; none: there are no more."""
    found: list[tuple[int, Any]] = []
    while len(found) < most:
        try:
            photograph = arrived.get(block=not found)
        except queue.Empty:
            break
        if photograph is None:
            # For the next look as well.
            arrived.put(None)
            break
        found.append(photograph)
    return found


def _told(detail: Detail | Exception) -> list[_Packed] | str:
    if isinstance(detail, Exception):
        return "".join(traceback.format_exception(detail))
    return [_packed(part) for part in detail]


def _answer(said: IO[bytes], answers: queue.SimpleQueue[_Answer | None]) -> None:
    # Whoever asked may be gone.
    with contextlib.suppress(OSError):
        while (answer := answers.get()) is not None:
            _send(answer, said)
