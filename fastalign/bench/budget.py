"""How the time of a run is shared: every op and every model first, to each its part."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

_Item = TypeVar("_Item")
Clock = Callable[[], float]


def in_turn(items: Iterable[_Item], kind: Callable[[_Item], Hashable]) -> list[_Item]:
    """The first of every kind, then the second of every kind, each time in the order given."""
    seen: dict[Hashable, int] = {}
    numbered = []
    for item in items:
        number = seen[kind(item)] = seen.get(kind(item), -1) + 1
        numbered.append((number, item))
    return [item for _, item in sorted(numbered, key=lambda pair: pair[0])]


class Budget:
    """Seconds for several pieces of work; what one leaves over belongs to those behind it.

    Args:
        seconds: for all of them; may be infinite.
        pieces: how many there are.
        clock: seconds.
    """

    def __init__(self, seconds: float, pieces: int, clock: Clock = time.monotonic) -> None:
        self.left = seconds
        self._pieces = pieces
        self._clock = clock

    @property
    def share(self) -> float:
        """Seconds of the next piece, were the rest shared evenly."""
        return max(self.left, 0.0) / max(self._pieces, 1)

    def spend(self, work: Callable[[], _Item], at_most: float = float("inf")) -> _Item:
        """Does one piece; no more than ``at_most`` seconds of it are taken from the others'."""
        began = self._clock()
        try:
            return work()
        finally:
            self.left -= min(self._clock() - began, at_most)
            self._pieces -= 1

    def skip(self) -> None:
        """One piece is left out."""
        self._pieces -= 1


class Share:
    """What a case may take, and each of its contestants of it.

    Args:
        seconds: of the case; may be infinite.
        contestants: how many there are.
    """

    def __init__(self, seconds: float = float("inf"), contestants: int = 1) -> None:
        self.seconds = seconds
        self.each = seconds / max(contestants, 1)
        self._spent: dict[str, float] = {}

    def spend(self, name: str, seconds: float) -> None:
        self._spent[name] = self._spent.get(name, 0.0) + seconds

    def left(self, name: str) -> float:
        """Seconds that the contestant still has."""
        return self.each - self._spent.get(name, 0.0)
