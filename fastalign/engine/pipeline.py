"""Images on their way through three stages at once: threads read and write them, while the caller's
thread computes.

Reading and writing are decoders and encoders, which release the interpreter's lock. The model stays
in the thread that called, where its device, its graphs and an interruption are at home; so does
whatever depends on the order of the images.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from fastalign.load import cores, watched

_Item = TypeVar("_Item")
_Read = TypeVar("_Read")
_Made = TypeVar("_Made")
_Done = TypeVar("_Done")

READING, COMPUTING, WRITING = "reading", "computing", "writing"
MEMORY = 1 << 29
"""Bytes that images under way may take where nobody sets a limit."""
_MOST_THREADS = 16


@dataclass(frozen=True)
class Room:
    """How much may be under way at once, from the beginning of reading to the end of writing.

    A batch that is larger than all of it goes alone.

    Attributes:
        images: images at most.
        memory: bytes at most, by what :class:`Pipeline` is told of each image.
        threads: that read and write.
    """

    images: int
    memory: int = MEMORY
    threads: int = 1

    @classmethod
    def of(cls, batch_size: int, memory: int | None = None, threads: int | None = None) -> Room:
        """Enough for threads to read ahead and to write behind a batch that is computed.

        Args:
            batch_size: images in a batch.
            memory: bytes at most; None: :data:`MEMORY`.
            threads: None: one for each core of this process, up to 16.
        """
        threads = min(cores(), _MOST_THREADS) if threads is None else threads
        images = 2 * threads + 2 * batch_size
        return cls(images, MEMORY if memory is None else memory, threads)


class Stop(NamedTuple):
    """Where a run was cut short: the stage, and the item (the first one of a batch) in it."""

    stage: str
    item: object


@dataclass
class _Writing(Generic[_Item, _Done]):
    item: _Item
    weight: int
    done: Future[_Done]


@dataclass
class _Batch(Generic[_Item, _Read]):
    items: Sequence[_Item]
    weights: list[Future[int]]
    reads: list[Future[_Read]] = field(default_factory=list)

    @property
    def weight(self) -> int:
        return sum(weight.result() for weight in self.weights)


class Pipeline(Generic[_Item, _Read, _Made, _Done]):
    """Three stages and an end, through which batches of items go in their order.

    Args:
        read: in a thread, of one item.
        compute: in the caller's thread, of a batch in its order; gives one value for each item.
        write: in a thread, of one such value.
        finish: in the caller's thread, with what was written, in the order of the items.
        room: how much may be under way.
        weigh: in a thread, the bytes that an item will take from reading to writing.
    """

    def __init__(
        self,
        read: Callable[[_Item], _Read],
        compute: Callable[[list[_Read]], Sequence[_Made]],
        write: Callable[[_Made], _Done],
        finish: Callable[[_Done], None],
        room: Room,
        weigh: Callable[[_Item], int] = lambda item: 0,
    ) -> None:
        self._read, self._compute, self._write, self._finish = read, compute, write, finish
        self._weigh = weigh
        self._room = room
        self._reading: deque[_Batch[_Item, _Read]] = deque()
        self._writing: deque[_Writing[_Item, _Done]] = deque()
        self.stopped: Stop | None = None
        """Where :meth:`run` was cut short."""

    def run(self, batches: Iterable[Sequence[_Item]]) -> None:
        """Send all batches through.

        The error that is raised is that of the earliest item, whatever happened first. Nothing new
        begins after it. What was computed before it is written and finished as if it had not
        happened, at an interruption too, which a second one cuts short; where writing itself has
        failed, only what was being written is, so that nothing lies about of which the caller does
        not hear.

        Raises:
            BaseException: what a stage has raised; ``stopped`` says where.
        """
        pool = ThreadPoolExecutor(self._room.threads, thread_name_prefix="fastalign-image")
        failed: Exception | None = None
        try:
            # That threads wait for a core is meant here.
            with watched.paused():
                self._go(iter(batches), pool)
        except BaseException as error:
            failed = self._settle(error)
            if failed is None:
                raise
        finally:
            # What is still being read is of no use to anybody, and nobody waits for it.
            pool.shutdown(wait=False, cancel_futures=True)
        if failed is not None:
            raise failed

    def _go(self, batches: Iterator[Sequence[_Item]], pool: ThreadPoolExecutor) -> None:
        upcoming = self._weighed(batches, pool)
        while upcoming is not None or self._reading or self._writing:
            while upcoming is not None and self._has_room_for(upcoming):
                upcoming.reads = [pool.submit(self._read, item) for item in upcoming.items]
                self._reading.append(upcoming)
                upcoming = self._weighed(batches, pool)
            while self._writing and self._writing[0].done.done():
                self._finish_first()
            if self._reading:
                self._compute_first(pool)
            elif self._writing:
                self._finish_first()

    def _weighed(
        self, batches: Iterator[Sequence[_Item]], pool: ThreadPoolExecutor
    ) -> _Batch[_Item, _Read] | None:
        items = next(batches, None)
        if items is None:
            return None
        return _Batch(items, [pool.submit(self._weigh, item) for item in items])

    def _has_room_for(self, batch: _Batch[_Item, _Read]) -> bool:
        if not self._reading and not self._writing:
            return True
        images = sum(len(other.items) for other in self._reading) + len(self._writing)
        if images + len(batch.items) > self._room.images:
            return False
        # Not waited for: threads may have more urgent work.
        if not all(weight.done() for weight in batch.weights):
            return False
        weight = sum(other.weight for other in self._reading)
        weight += sum(other.weight for other in self._writing)
        return weight + batch.weight <= self._room.memory

    def _compute_first(self, pool: ThreadPoolExecutor) -> None:
        batch = self._reading[0]
        read = []
        for item, future in zip(batch.items, batch.reads, strict=True):
            self.stopped = Stop(READING, item)
            read.append(future.result())
        self.stopped = Stop(COMPUTING, batch.items[0])
        made = self._compute(read)
        self.stopped = None
        del read
        self._reading.popleft()
        for item, weight, value in zip(batch.items, batch.weights, made, strict=True):
            writing = pool.submit(self._write, value)
            self._writing.append(_Writing(item, weight.result(), writing))

    def _finish_first(self) -> None:
        first = self._writing[0]
        self.stopped = Stop(WRITING, first.item)
        # An interruption while this waits leaves it in the queue.
        wait([first.done])
        self._writing.popleft()
        self._finish(first.done.result())
        self.stopped = None

    def _settle(self, error: BaseException) -> Exception | None:
        """Finish what is left after ``error``; the error of an earlier item, if there is one."""
        stopped, earlier = self.stopped, None
        for batch in self._reading:
            for future in batch.reads:
                future.cancel()
        self._reading.clear()
        is_first = isinstance(error, Exception) and stopped is not None and stopped.stage == WRITING
        if is_first:
            self._leave_unwritten()
        while self._writing:
            try:
                self._finish_first()
            except Exception as other:
                if isinstance(error, Exception) and not is_first:
                    earlier, stopped, is_first = other, self.stopped, True
                self._leave_unwritten()
        self.stopped = stopped
        return earlier

    def _leave_unwritten(self) -> None:
        """Take back what no thread has begun to write."""
        self._writing = deque(one for one in self._writing if not one.done.cancel())
