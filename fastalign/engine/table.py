"""``scores.csv``: one format for whatever scores images, written row by row."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastalign.engine.lines import Lines
from fastalign.engine.results import Alignment, finite
from fastalign.regions import Region
from fastalign.verdict import TRUTHS, Verdict

SCORES = "scores.csv"
FILES = ("map", "mask", "overlay")
_ALIGNMENT = ("residual_before", "residual_after", "shift", "rotation", "scale", "covered")
COLUMNS = (
    "path",
    "score",
    "threshold",
    "relative",
    "verdict",
    "reason",
    "roi",
    "truth",
    "defect",
    "trained_on",
    *_ALIGNMENT,
    *FILES,
)
_RELATIVE_DIGITS = 4


@dataclass(frozen=True)
class Row:
    """One image.

    Attributes:
        path: the image as the source names it.
        score: its score; None where the file could not be read.
        threshold: the image threshold in force; None without one.
        verdict: what the score says at this threshold.
        reason: why it is unsure, or what speaks against the verdict; empty without such.
        truth: 0 good, 1 anomaly, None or -1 where it is not known.
        defect: kind of defect, where it is known.
        trained_on: the image of the fit that it is, or nearly is; empty: none, or not looked for.
        alignment: how it was aligned; None where it was not read.
        files: pictures written for it by kind, relative to the folder of the table.
        size: height and width of the photograph; None where it was not read.
        regions: its places above the pixel threshold, highest score first.
        roi: the score of each region of interest, None where it has none; empty where the whole
            part is judged.
        conditions: how it was taken, by statistic
            (:func:`fastalign.models.conditions.conditions_at`); empty where nobody asked.
    """

    path: str
    score: float | None
    threshold: float | None
    verdict: Verdict
    reason: str = ""
    truth: int | None = None
    defect: str = ""
    trained_on: str = ""
    alignment: Alignment | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    regions: tuple[Region, ...] = ()
    roi: Mapping[str, float | None] = field(default_factory=dict)
    conditions: Mapping[str, float] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """The row by column; None where there is no value."""
        share = relative(self.score, self.threshold)
        values: dict[str, Any] = {
            "path": self.path,
            "score": self.score,
            "threshold": self.threshold,
            "relative": None if share is None else float(f"{share:.{_RELATIVE_DIGITS}g}"),
            "verdict": self.verdict.text,
            "reason": self.reason or None,
            "roi": dict(self.roi) or None,
            "truth": None if self.truth is None else TRUTHS.get(self.truth),
            "defect": self.defect or None,
            "trained_on": self.trained_on or None,
        }
        for name in _ALIGNMENT:
            values[name] = None if self.alignment is None else getattr(self.alignment, name)
        for name in FILES:
            values[name] = self.files.get(name)
        return {name: finite(value) for name, value in values.items()}

    def line(self) -> str:
        """The row as a line of the table."""
        values = {**self.values(), "roi": roi_text(self.roi)}
        return csv_line(["" if values[name] is None else values[name] for name in COLUMNS])


def roi_text(roi: Mapping[str, float | None]) -> str | None:
    """Scores of regions of interest as the text of one cell, JSON; None without any."""
    return json.dumps(roi) if roi else None


def highest_roi(roi: Mapping[str, float | None]) -> str | None:
    """Of several regions of interest the name of the one with the highest score; None where there
    are not several, or none has one."""
    known = {name: score for name, score in roi.items() if score is not None}
    return max(known, key=lambda name: known[name]) if known and len(roi) > 1 else None


def relative(score: float | None, threshold: float | None) -> float | None:
    """Score over threshold, above 1 for an anomaly; None where that says nothing."""
    if score is None or threshold is None or not math.isfinite(score) or threshold <= 0:
        return None
    return score / threshold


def header() -> str:
    """The first line of the table."""
    return csv_line(COLUMNS)


def csv_line(cells: Iterable[Any]) -> str:
    """Cells as a line of a table."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def encode(text: str) -> bytes:
    """UTF-8; a file name that is none keeps its bytes."""
    return text.encode("utf-8", "surrogateescape")


class ScoresTable:
    """A table that holds, whatever happens, the rows written so far, each of them whole.

    Use it in a ``with`` block. Without any row nothing is left at ``path``.

    Args:
        path: where to write; replaced when the block is entered.

    Raises:
        InputError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0

    def __enter__(self) -> ScoresTable:
        self._lines = Lines(self.path)
        try:
            self._lines.add(encode(header()))
        except BaseException:
            self.__exit__()
            raise
        return self

    def add(self, row: Row) -> None:
        """Write one more row."""
        self._lines.add(encode(row.line()))
        self.rows += 1

    def __exit__(self, *error: object) -> None:
        self._lines.close()
        if not self.rows:
            self.path.unlink(missing_ok=True)
