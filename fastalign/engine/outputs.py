"""Files of an evaluation: ``results.json``, ``scores.csv``, ``report.html``."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from fastalign.engine.results import Evaluation, finite
from fastalign.io import atomic_write
from fastalign.report.gallery import Gallery
from fastalign.report.page import render_report

_COLUMNS = (
    "path",
    "defect",
    "label",
    "score",
    "predicted",
    "residual_before",
    "residual_after",
    "shift",
    "rotation",
    "scale",
    "covered",
)


def write_evaluation(
    evaluation: Evaluation, gallery: Gallery, out: Path, gallery_images: int
) -> dict[str, Path]:
    """Write the three files into ``out`` and return their paths by name.

    All three are composed before the first is written, and each replaces its predecessor only when
    complete.

    Raises:
        InputError: ``out`` cannot be written.
    """
    # The largest first: a disk that is too small for it shall hold nothing, and the figures, by
    # which scripts see that all is done, last.
    contents = {
        "report.html": render_report(evaluation, gallery, most=gallery_images),
        "scores.csv": scores_table(evaluation),
        "results.json": json.dumps(evaluation.to_json(), indent=2, allow_nan=False) + "\n",
    }
    files = {}
    for name, text in contents.items():
        files[name] = out / name
        errors = "surrogateescape" if name.endswith(".csv") else "replace"
        with atomic_write(files[name]) as file:
            file.write(text.encode("utf-8", errors))
    return dict(reversed(files.items()))


def scores_table(evaluation: Evaluation) -> str:
    """One line per image: label, score, verdict and alignment; empty where there is no value."""
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for item in evaluation.images:
        alignment = item.alignment
        row = [
            item.path,
            item.defect,
            item.label,
            item.score,
            item.predicted,
            alignment.residual_before,
            alignment.residual_after,
            alignment.shift,
            alignment.rotation,
            alignment.scale,
            alignment.covered,
        ]
        writer.writerow(["" if finite(value) is None else value for value in row])
    return table.getvalue()
