"""All statistics of a line: what stands, and what changes with each photograph."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from fastalign.drift.normal import LEAST, Normal
from fastalign.drift.settings import INTERVAL
from fastalign.drift.statement import BEGAN, ENDED, GREW, STATISTICS, Statement, written
from fastalign.drift.track import Track

# A drift that has grown by this factor since it was told is told again.
_GROWN = 2.0
UNJUDGED = "unjudged"


class DriftMonitor:
    """Holds photographs, one after the other, against the normal ones of a fit.

    What it says depends on the photographs and their order alone, so that it can be brought to any
    state by giving it the same ones again.

    Args:
        normal: what the normal photographs were like, by statistic of
            :data:`fastalign.drift.statement.STATISTICS`.
        interval: photographs between two false statements on average, of all statistics together.

    Attributes:
        digest: stands for ``normal``.
        photographs: how many it has seen.
    """

    def __init__(self, normal: Mapping[str, Normal], interval: float = INTERVAL) -> None:
        self.interval = interval
        self.normal = {name: normal[name] for name in STATISTICS if name in normal}
        number = max((one.number for one in self.normal.values()), default=0)
        if number >= LEAST:
            # Of the fit all photographs could be judged.
            self.normal[UNJUDGED] = Normal([0.0] * LEAST, number)
        plain = json.dumps({name: one.record() for name, one in self.normal.items()})
        self.digest = hashlib.blake2b(plain.encode(), digest_size=8).hexdigest()
        self.reset()

    def reset(self) -> None:
        """Forget all photographs."""
        sides = sum(_told_of(name, up) for name in self.normal for up in (True, False))
        each = self.interval * sides
        self.photographs = 0
        self._tracks = {name: Track(one, each) for name, one in self.normal.items()}
        self._standing: dict[tuple[str, bool], Statement] = {}

    @property
    def standing(self) -> list[Statement]:
        """The drifts that stand, as they were told last."""
        return list(self._standing.values())

    def add(
        self, name: str, conditions: Mapping[str, float], size: tuple[int, int]
    ) -> list[Statement]:
        """Take the next photograph; what is to be said with it.

        Args:
            name: of the photograph.
            conditions: its statistics by name; those that are missing or no finite numbers do not
                count.
            size: its height and width in pixels.
        """
        self.photographs += 1
        found = []
        for statistic, track in self._tracks.items():
            if statistic not in conditions:
                continue
            for upward, stands in track.add(name, self.photographs, conditions[statistic]):
                if _told_of(statistic, upward):
                    state = BEGAN if stands else ENDED
                    found.append(self._tell(state, statistic, upward, name, size))
            for upward in (True, False):
                before = self._standing.get((statistic, upward))
                if before is not None and statistic in _GROWING:
                    again = self._state(GREW, statistic, upward, name, size)
                    if again.size >= _GROWN * abs(before.size):
                        self._standing[statistic, upward] = again
                        found.append(again)
        return found

    def _tell(
        self, state: str, statistic: str, upward: bool, at: str, size: tuple[int, int]
    ) -> Statement:
        said = self._state(state, statistic, upward, at, size)
        if state == ENDED:
            self._standing.pop((statistic, upward), None)
        else:
            self._standing[statistic, upward] = said
        return said

    def _state(
        self, state: str, statistic: str, upward: bool, at: str, size: tuple[int, int]
    ) -> Statement:
        how, track = STATISTICS[statistic], self._tracks[statistic]
        side = track.sides[upward]
        direction = how.upward if upward else how.downward
        assert direction is not None
        since = side.since[0]
        if state == ENDED:
            before = self._standing[statistic, upward]
            amount = before.size
            was = how.words[direction].format(size=written(before.size, how.unit))
            text = f"over with {at}: {was} since {since}"
        else:
            amount = float(f"{how.measure(track.shift(upward), size):.3g}")
            text = f"{how.words[direction].format(size=written(amount, how.unit))} since {since}"
        return Statement(
            state, statistic, direction, amount, how.unit, since, at, side.photographs, text
        )


# Those whose size has no upper end.
_GROWING = frozenset(STATISTICS) - {"score", "unjudged"}


def _told_of(statistic: str, upward: bool) -> bool:
    how = STATISTICS[statistic]
    return (how.upward if upward else how.downward) is not None
