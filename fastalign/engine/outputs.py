"""Files of an evaluation: ``results.json``, ``scores.csv``, ``report.html``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from fastalign.engine.results import Evaluation
from fastalign.engine.table import Row, header
from fastalign.engine.texts import write_texts
from fastalign.report.gallery import Gallery
from fastalign.report.page import render_report
from fastalign.report.photographs import Photo
from fastalign.verdict import Verdict, judge


def write_evaluation(
    evaluation: Evaluation,
    gallery: Gallery,
    out: Path,
    gallery_images: int,
    photograph: Callable[[int], Photo],
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
        "report.html": render_report(
            evaluation, gallery, most=gallery_images, photograph=photograph
        ),
        "scores.csv": scores_table(evaluation),
        "results.json": json.dumps(evaluation.to_json(), indent=2, allow_nan=False) + "\n",
    }
    return dict(reversed(write_texts(out, contents).items()))


def scores_table(evaluation: Evaluation) -> str:
    """One line per image in the format of all tables of scores; empty where there is no value."""
    threshold = evaluation.image_threshold
    left_out = {item.path: item.reason for item in evaluation.skipped}
    rows = [
        Row(
            path=item.path,
            score=item.score,
            threshold=threshold,
            verdict=judge(item.score, threshold),
            reason=item.reason,
            truth=item.label,
            defect=item.defect,
            trained_on=item.trained_on,
            alignment=item.alignment,
            roi=item.roi,
        )
        for item in evaluation.images
    ]
    scored = {row.path for row in rows}
    rows += [
        Row(path, None, threshold, Verdict.UNSURE, reason)
        for path, reason in left_out.items()
        if path not in scored
    ]
    return header() + "".join(row.line() for row in rows)
