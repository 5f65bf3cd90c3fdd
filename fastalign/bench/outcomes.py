"""What a row says of its contestants: ours, ratios to others, and why some have no figure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastalign.bench.measure import OURS
from fastalign.bench.rows import Row, load_of

BASELINES = ("compiled", "eager", "loop", "cdist", "kornia", "torchvision", "anomalib", "memcpy")


def ours(row: Row, planned: bool = False) -> Iterable[tuple[str, dict[str, Any]]]:
    """Backend and entry of each of our contestants; ``planned``: those under forced plans, too."""
    for name, entry in row["contestants"].items():
        if name.startswith(OURS) and (planned or "plan" not in entry):
            yield name.partition("/")[2], entry


def ratio(row: Row, entry: dict[str, Any], baseline: str, key: str = "ms") -> float | None:
    """How many times the baseline's time is ours; None where either was not measured."""
    theirs = row["contestants"].get(baseline, {}).get(key)
    return theirs / entry[key] if theirs and entry.get(key) else None


def _reasons(rows: list[Row], outcome: str) -> list[str]:
    """Case, contestant and why, of every contestant with this outcome."""
    return [
        f"{row['case']}: {name}: {entry[outcome]}"
        for row in rows
        for name, entry in row["contestants"].items()
        if outcome in entry
    ]


def failures(rows: list[Row]) -> list[str]:
    """Every contestant without a figure, and why."""
    whole = [f"{row['case']}: {row['failed']}" for row in rows if "failed" in row]
    return _reasons(rows, "failed") + whole


def absences(rows: list[Row]) -> list[str]:
    """Libraries that were asked for and are not here, each once."""
    found = {
        f"{name}: {entry['absent']}"
        for row in rows
        for name, entry in row["contestants"].items()
        if "absent" in entry
    }
    return sorted(found)


def out_of_time(rows: list[Row]) -> list[str]:
    """Contestants that there was no time for, and why."""
    return _reasons(rows, "out_of_time")


def remark(row: Row) -> str:
    """What a line of a terminal says behind a row that was taken under load."""
    load = load_of(row)
    return f" [under load: {load.describe()}]" if load is not None and load.busy else ""


def format_times(value: float | None) -> str:
    """A ratio as ``1.23x``, ``-`` for None."""
    return "-" if value is None else f"{value:.3g}x"


def format_number(value: float | None, unit: float = 1.0) -> str:
    """``value`` in ``unit`` with three digits, ``-`` for None."""
    return "-" if value is None else f"{value / unit:.3g}"
