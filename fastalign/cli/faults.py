"""Exit codes and messages for errors: whose fault it is, and what helps."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

UNEXPECTED = 1
INPUT = 3
BACKEND = 5
INTERRUPTED = 130
TERMINATED = 143

# Words of the libraries below us where there is no memory left; their error classes do not tell.
_NO_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "could not allocate",
    "failed to allocate",
    "failed to map segment from shared object",
    "not enough memory",
    "out of memory",
    "std::bad_alloc",
    "bad allocation",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "insufficient memory",
    "unable to allocate",
    "array is too big",
    "can't start new thread",
    "paging file is too small",
    "killed by signal: killed",
)
# The same of a device that cannot be used.
_NO_DEVICE = (
    "no kernel image is available",
    "cuda driver version is insufficient",
    "found no nvidia driver",
    "not compiled with cuda enabled",
    "invalid device ordinal",
    "no cuda gpus are available",
)


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM), as by a service manager or at shutdown."""


def explain(error: BaseException) -> tuple[int, str]:
    """Exit code and message for an error."""
    from fastalign.errors import FastalignError, LargeFileError

    if isinstance(error, KeyboardInterrupt):
        if isinstance(error, Terminated):
            return TERMINATED, str(error) or "terminated"
        return INTERRUPTED, str(error) or "interrupted"
    # Of a file that is too large its own error says what helps.
    told = isinstance(error, LargeFileError)
    if not told and any(_is_out_of_memory(one) for one in _chain(error)):
        return BACKEND, (
            f"error: out of memory ({_first_line(error)}); give --memory-budget less than the "
            "machine has free, or use a smaller --image-size or --batch-size, fewer --channels, "
            "--set rank=16, or another --device."
        )
    if isinstance(error, FastalignError):
        return error.exit_code, f"error: {error}"
    if str(error).startswith("FASTALIGN_"):
        # The native library names the environment variable that asks for what it has not.
        return BACKEND, f"error: {_first_line(error)}; change or unset this environment variable."
    if any(word in str(error).lower() for word in _NO_DEVICE):
        return BACKEND, (
            f"error: the device cannot be used ({_first_line(error)}); use --device cpu, or "
            "install what `fastalign info` misses."
        )
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("fastalign"):
        return BACKEND, (
            f"error: the package {error.name} is missing or incomplete ({error}); install it with: "
            f"pip install {str(error.name).partition('.')[0]}"
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


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    from fastalign.errors import FastalignError

    # Our own errors say themselves what they are about.
    if isinstance(error, FastalignError):
        return False
    text = str(error).lower()
    # oneDNN's word where its code finds no room; one that it cannot do lacks a descriptor.
    if text.splitlines()[:1] in (["could not create a primitive"], ["could not create a memory"]):
        return True
    # A folder mounted without the right to execute ends in the same words, with the reason.
    return any(word in text for word in _NO_MEMORY) and "not permitted" not in text


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__
