"""Errors that a user can do something about.

Each message names the thing concerned, the value given, what was expected and the remedy. The
commands print the message without a traceback and leave with ``exit_code``. Wrong arguments of an
operator stay plain ``ValueError`` and ``TypeError``, as everywhere in Python.
"""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """What an error of another library says first, for a message of ours; its kind where it says
    nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def extra(name: str) -> str:
    """The line that installs an extra, from a checkout of the project."""
    return f"pip install '.[{name}]' in fastalign's checkout"


class FastalignError(Exception):
    """Base of all errors below; ``exit_code`` is what a command leaves with."""

    exit_code: int = 1


class ConfigError(FastalignError, ValueError):
    """An option, or a combination of options, that makes no sense."""

    exit_code = 2


class InputError(FastalignError):
    """Data or a path that cannot be used: missing, unreadable, of the wrong kind, not writable."""

    exit_code = 3


class LargeFileError(InputError):
    """A file that takes more memory to read than there is."""


class ArtifactError(FastalignError):
    """A model or checkpoint file that is truncated, foreign, damaged or of a later version."""

    exit_code = 4


class BackendError(FastalignError):
    """A backend or device that was asked for by name and cannot run; the message says why."""

    exit_code = 5


class ProcessError(FastalignError):
    """Another process of the same job failed, ended, or did not answer in time."""

    exit_code = 6


class DataWarning(UserWarning):
    """Something about the data that a user should know and that stops nothing."""


class LoadWarning(UserWarning):
    """Other work on the machine makes ours many times slower than it has to be."""


class GraphWarning(UserWarning):
    """Work on a GPU could not be recorded as a CUDA graph and is launched call by call."""


class CollapseWarning(UserWarning):
    """Training has made features of all images and locations nearly the same direction."""


class RunawayWarpWarning(UserWarning):
    """A trained warp has moved to its bounds, where it lowers the loss by hiding the part."""
