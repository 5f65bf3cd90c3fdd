"""Drift of a line that is ended and begun again: what the journal says brings it back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from fastalign.drift.monitor import DriftMonitor
from fastalign.drift.statement import Statement
from fastalign.line.journal import PHOTOGRAPH, Journal, key_of, now

DRIFT = "drift"
# Lines that say by what photographs are held against from then on.
_BEGINNINGS = ("begin", "update")
# Statements that are kept in memory.
_KEPT = 100


class LineDrift:
    """Watches a line for drift; of one thread, or under one lock.

    Its state follows from the photographs in the journal and their order. So none of its own is
    kept: a run that begins gives it the lines that there are (:meth:`replay`).

    Args:
        monitor: what watches; None: nothing does.

    Attributes:
        said: the last statements.
    """

    def __init__(self, monitor: DriftMonitor | None) -> None:
        self.monitor = monitor
        self.said: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._open: list[Statement] = []
        self._held_against: str | None = None

    def begin(self) -> dict[str, Any]:
        """For a line with which a run begins, or goes on with another model: what photographs are
        held against."""
        return {"drift": None if self.monitor is None else self.monitor.digest}

    def replay(self, line: dict[str, Any]) -> None:
        """Take a line of an earlier run in."""
        if self.monitor is None:
            return
        if line["event"] in _BEGINNINGS:
            if line.get("drift") != self._held_against:
                # By another model: what its photographs were like says nothing here.
                self._forget()
            self._held_against = line.get("drift")
        elif line["event"] == PHOTOGRAPH and self._held_against == self.monitor.digest:
            self._open = self.add(line)
        elif line["event"] == DRIFT:
            self._keep(line)
            self._open = [one for one in self._open if _differs(one, line)]

    def go_on_with(self, monitor: DriftMonitor | None) -> None:
        """Watch by another model, anew unless its normal photographs are the same."""
        before = None if self.monitor is None else self.monitor.digest
        if before != (None if monitor is None else monitor.digest):
            self.monitor = monitor
            self._forget()

    def _forget(self) -> None:
        if self.monitor is not None:
            self.monitor.reset()
        self.said.clear()
        self._open = []

    def unsaid(self) -> list[Statement]:
        """What the last photograph of an earlier run said, where the run was ended before its
        line."""
        unsaid, self._open = self._open, []
        return unsaid

    def tell(
        self, statements: Iterable[Statement], journal: Journal | None, *, notify: bool = False
    ) -> list[dict[str, Any]]:
        """Keep statements, each with a line of the journal where there is one, and whether somebody
        is to be told; the lines."""
        lines = []
        for statement in statements:
            about = statement.to_json()
            key = key_of(f"{DRIFT}\0{now()}\0{statement.text}")
            about = {**about, "key": key, "notify": notify}
            if journal is None:
                lines.append({"event": DRIFT, "time": now(), **about})
            else:
                lines.append(journal.add(DRIFT, about))
            self._keep(lines[-1])
        return lines

    def _keep(self, line: dict[str, Any]) -> None:
        self.said.append({name: line[name] for name in line if name != "event"})

    def summary(self) -> dict[str, Any]:
        """All of it, JSON-able."""
        watched = {} if self.monitor is None else self.monitor.normal
        return {
            "watched": [
                {
                    "statistic": name,
                    "normal_photographs": normal.number,
                    "median": normal.median,
                    "least": normal.values[0],
                    "most": normal.values[-1],
                }
                for name, normal in watched.items()
            ],
            "photographs": 0 if self.monitor is None else self.monitor.photographs,
            "interval": None if self.monitor is None else self.monitor.interval,
            "standing": self.standing(),
            "said": list(self.said),
        }

    def standing(self) -> list[dict[str, Any]]:
        """The drifts that stand, JSON-able."""
        if self.monitor is None:
            return []
        return [statement.to_json() for statement in self.monitor.standing]

    def add(self, line: dict[str, Any]) -> list[Statement]:
        """Take the line of a photograph; what is to be said with it."""
        conditions = line.get("conditions")
        if self.monitor is None or not conditions:
            return []
        return self.monitor.add(line["path"], conditions, (line["height"], line["width"]))


def _differs(one: Statement, line: dict[str, Any]) -> bool:
    keys = ("state", "statistic", "direction")
    return any(getattr(one, key) != line.get(key) for key in keys)
