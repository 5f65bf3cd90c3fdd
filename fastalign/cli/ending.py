"""Commands that run until they are told to end."""

from __future__ import annotations

import contextlib
import signal
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from fastalign.errors import DataWarning


@contextlib.contextmanager
def until_told(stop: threading.Event) -> Iterator[None]:
    """During the block SIGTERM and Ctrl-C set ``stop``, which is no error; the second one ends the
    process as it ends any other."""
    # By default Python keeps the text of every warning, to give none twice: one for each odd
    # photograph, and there is no last one.
    warnings.simplefilter("always", DataWarning)
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
