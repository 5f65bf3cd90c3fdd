"""The ops written out in torch's own, for graphs that shall run without fastalign."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

# How many contexts are open. Neither a context variable nor a thread-local value: torch.compile
# refuses the one (torch 2.11) and does not notice a change of the other.
_open = 0


@contextmanager
def plain_ops() -> Iterator[None]:
    """Let fastalign's functions and layers compute with torch's own ops alone.

    For tracing and exporting: what is recorded inside runs where fastalign is not installed. Values
    stay the same to rounding, in eager mode too, at the cost of speed and memory
    (``pairwise_distance`` holds all pairs at once). A ``backend`` that was asked for does not
    count. Holds for the whole process, so that threads beside this one are slower meanwhile.
    """
    global _open
    _open += 1
    try:
        yield
    finally:
        _open -= 1


def active() -> bool:
    """Whether the caller is inside :func:`plain_ops`."""
    return _open > 0
