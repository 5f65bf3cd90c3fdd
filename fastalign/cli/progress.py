"""Progress on standard error: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.progress import TaskID

_SECONDS_BETWEEN_LINES = 10.0


class Display(Protocol):
    """A progress that is switched on for a ``with`` block."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def start(self, stage: str, total: int) -> None: ...

    def advance(self, n: int = 1) -> None: ...

    def log(self, values: dict[str, Any]) -> None: ...

    def note(self, text: str) -> None: ...

    def detail(self, text: str) -> None: ...


def make_progress(*, silent: bool = False, details: bool = False) -> Display:
    """The live display where standard error is a terminal, lines for logs and pipes; nothing where
    another process speaks for this one. ``details``: with figures and notes about the inside."""
    if silent:
        return SilentProgress()
    return LiveProgress(details) if sys.stderr.isatty() else LineProgress(details)


_Own = TypeVar("_Own", bound="_Passive")


class _Passive:
    """A display that has nothing to switch on or off."""

    def __enter__(self: _Own) -> _Own:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


class SilentProgress(_Passive):
    """Says nothing."""

    def start(self, stage: str, total: int) -> None:
        pass

    def advance(self, n: int = 1) -> None:
        pass

    def log(self, values: dict[str, Any]) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def detail(self, text: str) -> None:
        pass


class LiveProgress:
    """Bars with the time left, one per stage."""

    def __init__(self, details: bool = False) -> None:
        self._details = details
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False, style="dim"),
            console=Console(stderr=True),
        )
        self._task: TaskID | None = None

    def __enter__(self) -> LiveProgress:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def start(self, stage: str, total: int) -> None:
        self._task = self._bars.add_task(stage, total=total, figures="")

    def advance(self, n: int = 1) -> None:
        if self._task is not None:
            self._bars.advance(self._task, n)

    def log(self, values: dict[str, Any]) -> None:
        if self._details and self._task is not None:
            self._bars.update(self._task, figures=_figures(values))

    def detail(self, text: str) -> None:
        if self._details:
            self.note(text)

    def note(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)


class LineProgress(_Passive):
    """A line when a stage begins and ends, and one every ten seconds in between."""

    def __init__(self, details: bool = False) -> None:
        self._details = details
        self._stage = ""
        self._total = self._done = 0
        self._began = self._last = 0.0
        self._values: dict[str, Any] = {}

    def start(self, stage: str, total: int) -> None:
        self._stage, self._total, self._done, self._values = stage, total, 0, {}
        self._began = self._last = time.monotonic()
        self._print(f"{stage}: {total} steps")

    def advance(self, n: int = 1) -> None:
        before, self._done = self._done, self._done + n
        now = time.monotonic()
        seconds = now - self._began
        figures = _figures(self._values)
        tail = f", {figures}" if figures else ""
        if before < self._total <= self._done:
            self._print(f"{self._stage}: done in {seconds:.0f} s{tail}")
        elif now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            left = seconds / max(1, self._done) * max(0, self._total - self._done)
            self._print(f"{self._stage}: {self._done}/{self._total}, about {left:.0f} s left{tail}")

    def log(self, values: dict[str, Any]) -> None:
        if self._details:
            self._values = dict(values)

    def detail(self, text: str) -> None:
        if self._details:
            self.note(text)

    def note(self, text: str) -> None:
        self._print(text)

    @staticmethod
    def _print(text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _figures(values: dict[str, Any]) -> str:
    """Numbers by name, short."""
    parts = []
    for name, value in values.items():
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        parts.append(f"{name.replace('_', ' ')} {shown}")
    return ", ".join(parts)
