"""Errors of a command as one message and an exit code, without a traceback."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import typer

from fastalign.cli.faults import Terminated, explain

_Command = TypeVar("_Command", bound=Callable[..., None])


def guarded(command: _Command) -> _Command:
    """Wrap a command: known errors are printed and become their exit code; ``--debug`` shows where.
    SIGTERM ends it as Ctrl-C does: what it has written is left whole.

    The command takes a keyword ``debug``.
    """

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            with _ending_on_sigterm(), warnings.catch_warnings():
                warnings.showwarning = _show_warning
                command(*args, **options)
        except (Exception, KeyboardInterrupt) as error:
            # Usage errors, and readers of our output that went away, are typer's to handle.
            own = type(error).__module__.split(".")[0] not in ("typer", "click")
            if not own or isinstance(error, BrokenPipeError):
                raise
            code, message = explain(error)
            if options.get("debug"):
                traceback.print_exc()
            # What another process of the same job has reported is not said once more.
            if getattr(error, "from_process", None) is None:
                print(message, file=sys.stderr, flush=True)
            raise typer.Exit(code) from None

    return run  # type: ignore[return-value]


@contextlib.contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Let SIGTERM raise during the block. Not under torchrun, whose processes may wait for each
    other below Python, where nothing is raised."""
    launched = "TORCHELASTIC_RESTART_COUNT" in os.environ
    if launched or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    warn(str(message))


def warn(message: str) -> None:
    """A warning on standard error."""
    # One write: readers of images warn from threads.
    sys.stderr.write(f"warning: {message}\n")
    sys.stderr.flush()
