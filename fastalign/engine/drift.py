"""Drift over the photographs of a run: what watches for it, and ``drift.csv``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastalign.drift.monitor import DriftMonitor
from fastalign.drift.normal import LEAST
from fastalign.drift.settings import INTERVAL, LEAST_INTERVAL
from fastalign.drift.statement import COLUMNS, ENDED, Statement
from fastalign.engine.lines import Lines
from fastalign.engine.table import Row, csv_line, encode
from fastalign.errors import ConfigError
from fastalign.models.conditions import normal_of
from fastalign.numeric import whole_number

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD

DRIFT = "drift.csv"
NO_NORMAL = (
    "no drift is told: the model keeps nothing of how normal photographs were taken (an earlier "
    f"version fitted it, or fewer than {LEAST} different photographs); fit it again to have it told"
)


def drift_interval(interval: int) -> int:
    """``interval`` as :func:`monitor_of` takes it.

    Raises:
        ConfigError: it is neither 0 nor at least 100.
    """
    interval = whole_number("drift", interval)
    if 0 < interval < LEAST_INTERVAL:
        raise ConfigError(
            f"drift {interval}: give at least {LEAST_INTERVAL} photographs between two false "
            "statements, or 0 for none at all."
        )
    return interval


def monitor_of(model: FYD, interval: int = INTERVAL) -> DriftMonitor | None:
    """What watches for drift from the normal photographs of a model's fit; None where the model
    keeps nothing of them, or nobody asks.

    Args:
        model: a fitted model.
        interval: photographs between two false statements on average, see :func:`drift_interval`.
    """
    if not interval:
        return None
    metadata = model.extra_metadata()
    normal = normal_of(metadata.get("normal_conditions"), metadata.get("normal_scores"))
    if metadata.get("regions_of_interest"):
        # Coverage is then of the regions; what the fit keeps is that of the part.
        normal.pop("coverage", None)
    return DriftMonitor(normal, interval) if normal else None


class DriftTable:
    """``drift.csv``, a row for each statement, and what is said of them in the end.

    Use it in a ``with`` block.

    Args:
        path: where to write; replaced when the block is entered.
        monitor: what watches.

    Attributes:
        said: all statements so far.

    Raises:
        InputError: it cannot be written.
    """

    def __init__(self, path: Path, monitor: DriftMonitor) -> None:
        self._path, self._monitor = path, monitor
        self.said: list[Statement] = []

    def __enter__(self) -> DriftTable:
        self._lines = Lines(self._path)
        self._lines.add(encode(csv_line(COLUMNS)))
        return self

    def __exit__(self, *error: object) -> None:
        self._lines.close()

    def add(self, row: Row) -> list[Statement]:
        """Take the row of the next photograph in; what is said with it is in the file."""
        if row.size is None or not row.conditions:
            return []
        found = self._monitor.add(row.path, row.conditions, row.size)
        for statement in found:
            self._lines.add(encode(csv_line(statement.to_json().values())))
        self.said += found
        return found

    def warnings(self) -> list[str]:
        """A sentence for each drift, as it is in the end."""
        over = [statement for statement in self.said if statement.state == ENDED]
        return [f"drift: {statement.text}" for statement in [*over, *self._monitor.standing]]
