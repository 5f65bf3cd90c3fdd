"""Errors of a command as one message and an exit code, without a traceback."""

from __future__ import annotations

import functools
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import typer

_Command = TypeVar("_Command", bound=Callable[..., None])

UNEXPECTED = 1
INPUT = 3
BACKEND = 5
INTERRUPTED = 130


def guarded(command: _Command) -> _Command:
    """Wrap a command: known errors are printed and become their exit code; ``--debug`` shows where.

    The command takes a keyword ``debug``.
    """

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            with warnings.catch_warnings():
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


def explain(error: BaseException) -> tuple[int, str]:
    """Exit code and message for an error."""
    from fastalign.errors import FastalignError

    if isinstance(error, FastalignError):
        return error.exit_code, f"error: {error}"
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, str(error) or "interrupted"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return BACKEND, (
            "error: out of memory; use a smaller --batch-size or --image-size, fewer --channels, "
            "or another --device."
        )
    if isinstance(error, OSError) and error.strerror:
        where = (
            f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
        )
        return (
            INPUT,
            f"error: {where}{error.strerror}; check the path, its permissions and free space.",
        )
    return UNEXPECTED, (
        f"unexpected error: {type(error).__name__}: {error}\n"
        "This is a fault of fastalign: please report it, with what the same command prints "
        "under --debug."
    )


def _show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    warn(str(message))


def warn(message: str) -> None:
    """A warning on standard error."""
    print(f"warning: {message}", file=sys.stderr, flush=True)
