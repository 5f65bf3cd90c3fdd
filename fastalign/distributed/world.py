"""The processes that work on one thing together: what they exchange, and how they fail together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fastalign import errors
from fastalign.errors import FastalignError, ProcessError

_Result = TypeVar("_Result")


class Pending:
    """A tensor that is being summed over the processes."""

    def __init__(self, world: World, tensor: Tensor, what: str) -> None:
        self._world, self._tensor, self._what = world, tensor, what
        self._work: Any = None
        if world.size > 1:
            self._wire = world._on_wire(tensor)
            with world._watched(what):
                self._work = dist.all_reduce(self._wire, group=world.group, async_op=True)

    def wait(self) -> Tensor:
        """The sum, in the tensor that was given."""
        if self._work is not None:
            with self._world._watched(self._what):
                self._work.wait()
            if self._wire is not self._tensor:
                self._tensor.copy_(self._wire)
            self._work = None
        return self._tensor


@dataclass(frozen=True)
class World:
    """The processes of a group, seen from one of them.

    Every method that exchanges something has to be called by all processes in the same order. One
    that ends, or does not answer within the group's timeout, is a :class:`ProcessError` on the
    others, which names what they were waiting for. In a world of one process nothing is exchanged.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        group: the process group; None: the default one, or none at all for a single process.
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    # Shares ----------------------------------------------------------------------------------

    def share(self, number: int) -> range:
        """The part of ``range(number)`` that is this process's, as even as possible, in order."""
        least, more = divmod(number, self.size)
        start = self.rank * least + min(self.rank, more)
        return range(start, start + least + (self.rank < more))

    # Exchanges -------------------------------------------------------------------------------

    def sum_(self, tensor: Tensor, what: str) -> Tensor:
        """Sum over the processes, in place: the same bits on all of them."""
        return Pending(self, tensor, what).wait()

    def start_sum(self, tensor: Tensor, what: str) -> Pending:
        """As :meth:`sum_`, while this process goes on."""
        return Pending(self, tensor, what)

    def gather_rows(self, rows: Tensor, what: str) -> Tensor:
        """The rows ``[n,...]`` of all processes in the order of their ranks; n may differ."""
        if self.size == 1:
            return rows
        counts = self.gather_count(len(rows), what)
        most = max(counts)
        if most == 0:
            return rows
        wire = self._on_wire(rows)
        padded = wire.new_zeros((most, *rows.shape[1:]))
        padded[: len(rows)] = wire
        # Not every backend carries bool.
        sent = padded.view(torch.uint8) if padded.dtype == torch.bool else padded
        received = [torch.empty_like(sent) for _ in counts]
        with self._watched(what):
            dist.all_gather(received, sent, group=self.group)
        parts = [part.view(rows.dtype)[:n] for part, n in zip(received, counts, strict=True)]
        return torch.cat(parts).to(rows.device)

    def gather_count(self, count: int, what: str) -> list[int]:
        """A number of each process, on all of them."""
        if self.size == 1:
            return [count]
        own = torch.tensor([count], device=self.device)
        received = [torch.empty_like(own) for _ in range(self.size)]
        with self._watched(what):
            dist.all_gather(received, own, group=self.group)
        return torch.cat(received).tolist()

    def exchange(
        self, flat: Tensor, send: Sequence[int], receive: Sequence[int], what: str
    ) -> Tensor:
        """Give each process its part of ``flat``, whose lengths are ``send``, and take the parts
        that the others have for this one, whose lengths are ``receive``, one behind the other."""
        wire = self._on_wire(flat)
        received = wire.new_empty(sum(receive))
        with self._watched(what):
            dist.all_to_all_single(received, wire, list(receive), list(send), group=self.group)
        return received.to(flat.device)

    def broadcast_(self, tensors: Sequence[Tensor], what: str) -> None:
        """Give all processes the tensors of the first one, in place."""
        if self.size == 1:
            return
        for tensor in tensors:
            detached = tensor.detach()
            wire = self._on_wire(detached)
            with self._watched(what):
                dist.broadcast(wire, group=self.group, group_src=0)
            if wire is not detached:
                detached.copy_(wire)

    def send(self, tensor: Tensor, to: int, what: str) -> None:
        """Send a contiguous tensor to one process."""
        with self._watched(what):
            dist.send(self._on_wire(tensor), group=self.group, group_dst=to)

    def receive_(self, tensor: Tensor, source: int, what: str) -> Tensor:
        """Receive what a process sends, in place."""
        wire = self._on_wire(tensor)
        with self._watched(what):
            dist.recv(wire, group=self.group, group_src=source)
        return tensor if wire is tensor else tensor.copy_(wire)

    # Acting and failing together -------------------------------------------------------------

    def once(self, work: Callable[[], _Result], what: str) -> _Result:
        """What ``work`` returns on the first process, the only one that runs it.

        The result travels as a pickle; its tensors have to be on the CPU. An error is raised on all
        processes.
        """
        if self.size == 1:
            return work()
        result, failure = None, None
        if self.rank == 0:
            try:
                result = work()
            except Exception as error:
                # The others wait for word of it; it is raised below.
                failure = error
        box: list[Any] = [(_described(failure), result)]
        with self._watched(what):
            dist.broadcast_object_list(box, group=self.group, group_src=0)
        if failure is not None:
            raise failure
        described, result = box[0]
        if described is not None:
            raise _elsewhere(0, described)
        return result

    @contextmanager
    def together(self, what: str) -> Iterator[None]:
        """Work that each process does for itself and that fails for all where it fails for one.

        Nothing may be exchanged inside. Without it a process with, say, an unreadable image would
        leave, and the others would wait for it.
        """
        if self.size == 1:
            yield
            return
        failure = None
        try:
            yield
        except Exception as error:
            # The others have to hear of it first; it is raised below.
            failure = error
        failed = torch.tensor([float(failure is not None)], device=self.device)
        if not self.sum_(failed, what).item():
            return
        described: list[Any] = [None] * self.size
        with self._watched(what):
            dist.all_gather_object(described, _described(failure), group=self.group)
        if failure is not None:
            raise failure
        rank = next(rank for rank, found in enumerate(described) if found is not None)
        raise _elsewhere(rank, described[rank])

    # Devices and errors ----------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where small messages are made: the CPU if the group carries its tensors."""
        if self.size == 1 or "cpu" in self._carried():
            return torch.device("cpu")
        return torch.device("cuda", torch.cuda.current_device())

    def _carried(self) -> set[str]:
        """Kinds of devices whose tensors the group carries."""
        pairs = str(dist.get_backend_config(self.group)).split(",")
        return {pair.partition(":")[0] for pair in pairs}

    def _on_wire(self, tensor: Tensor) -> Tensor:
        """The tensor itself where the group can carry it, else a copy that it can."""
        here = tensor if tensor.device.type in self._carried() else tensor.to(self.device)
        return here.contiguous()

    @contextmanager
    def _watched(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        except RuntimeError as error:
            cause = str(error).strip().splitlines()
            raise ProcessError(
                f"process {self.rank} of {self.size}: {what} ended after "
                f"{time.monotonic() - began:.0f} s without an answer from the others "
                f"({cause[0] if cause else type(error).__name__}). Another process has ended, and "
                "says why, or is slower than the timeout allows: --timeout of the command, "
                "timeout= of torch.distributed.init_process_group."
            ) from error


def current() -> World:
    """The world of the default process group; a single process where none is initialised."""
    if not (dist.is_available() and dist.is_initialized()):
        return World()
    return World(dist.get_rank(), dist.get_world_size())


def _described(error: Exception | None) -> tuple[str, str] | None:
    return None if error is None else (type(error).__name__, str(error))


def _elsewhere(rank: int, described: tuple[str, str]) -> Exception:
    """The error of another process: of the same class where it is one of ours."""
    name, message = described
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, FastalignError):
        error: Exception = kind(f"process {rank}: {message}")
    else:
        error = ProcessError(f"process {rank}: {name}: {message}")
    error.from_process = rank  # type: ignore[attr-defined]
    return error
