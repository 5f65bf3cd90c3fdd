"""The figures of an evaluation, once all of its images were scored."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from fastalign.engine.environment import peak_rss_mb
from fastalign.engine.evaluation_run import EvaluationRun
from fastalign.engine.mistakes import count_mistakes, fewest_mistakes
from fastalign.engine.results import Evaluation
from fastalign.engine.scoring import NO_THRESHOLD
from fastalign.errors import InputError
from fastalign.metrics import Figures, image_metrics
from fastalign.words import count, none_of, part_of


def conclude(run: EvaluationRun, category: str) -> Evaluation:
    """Every figure of a run that is over, its curves, and the warnings that belong to them; the
    protocol and what is known of alignment are left empty.

    Raises:
        InputError: no image could be read.
    """
    images = run.images
    if not images:
        raise InputError(
            f"{run.directory}: {none_of(len(run.samples), 'test image', 'could be read')}; "
            f"the first: {run.skipped[0].reason}"
        )
    counted = [item for item in images if item.counted and item.scored]
    unsure = [item for item in images if not item.scored]
    labelled = [item for item in counted if item.label >= 0]
    scores = np.array([item.score for item in labelled], dtype=np.float64)
    labels = np.array([item.label for item in labelled], dtype=np.int64)
    good, anomalous = int((labels == 0).sum()), int((labels == 1).sum())
    figures = image_metrics(scores, labels, [item.path for item in labelled])
    if not all(item.counted for item in images):
        figures.reasons.update(
            {name: f"{why} that were not trained on" for name, why in figures.reasons.items()}
        )
    curves: dict[str, Any] = {}
    if good and anomalous:
        curves["roc"] = roc_curve(scores, labels)
    if anomalous and not run.has_masks:
        pixel_figures = Figures.undefined(run.pixels.names, "no anomalous test image has a mask")
    else:
        pixel_figures = run.pixels.compute()
    curves |= pixel_figures.curves
    metrics = {**figures, **pixel_figures}
    reasons = {**figures.reasons, **pixel_figures.reasons}
    made = count_mistakes([item for item in images if item.counted], run.limits.image)
    fewest = fewest_mistakes(counted)
    peak, peak_source = peak_rss_mb()
    if peak is None:
        reasons["peak_rss_mb"] = peak_source
    return Evaluation(
        category=category,
        metrics=metrics,
        reasons=reasons,
        ms_per_image=median(run.times.model),
        alignment_ms_per_image=median(run.times.alignment),
        peak_rss_mb=peak,
        image_threshold=run.limits.image,
        pixel_threshold=run.limits.pixel,
        counts={
            "images": len(images),
            "good": good,
            "anomalous": anomalous,
            "unlabelled": len(counted) - len(labelled),
            "trained_on": sum(not item.counted for item in images),
            "unsure_good": sum(item.label == 0 for item in unsure),
            "unsure_anomalous": sum(item.label == 1 for item in unsure),
            "left_out": len(run.skipped),
            "left_out_of_pixel_figures": len(run.unmasked),
        },
        alignment={},
        protocol={},
        images=images,
        skipped=run.skipped + run.unmasked,
        warnings=_warnings(run, reasons),
        curves=curves,
        mistakes=None if made is None else made.to_json(),
        fewest_mistakes=None if fewest is None else fewest.to_json(),
    )


def _warnings(run: EvaluationRun, reasons: Mapping[str, str]) -> list[str]:
    """What the reader of the figures has to know; ``reasons`` says why some are empty."""
    warnings = run.judging.warnings()
    if run.skipped:
        warnings.append(
            f"{part_of(len(run.skipped), len(run.samples), 'test image')} left out as unreadable"
        )
    if run.unmasked:
        warnings.append(
            f"{count(len(run.unmasked), 'test image')} left out of the pixel figures, for want of "
            "a mask that fits"
        )
    if run.limits.image is None:
        warnings.append(NO_THRESHOLD)
    if unsure := sum(not item.scored for item in run.images):
        warnings.append(
            f"{part_of(unsure, len(run.images), 'test image', 'have')} no score, being unsure, and "
            "no part in the figures"
        )
    if run.unseen_defects:
        warnings.append(
            f"{100 * run.unseen_defects:.2g} % of the annotated defects lie where nothing was "
            "compared; they count as missed in the pixel figures"
        )
    for reason in dict.fromkeys(reasons.values()):
        empty = ", ".join(name for name in reasons if reasons[name] == reason)
        warnings.append(f"{reason}, so these figures are left empty: {empty}")
    return warnings


def roc_curve(
    scores: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """False and true positive rates at every distinct score, from (0, 0) to (1, 1)."""
    order = np.argsort(-scores, kind="stable")
    positive = labels[order] == 1
    last_of_its_score = np.append(np.diff(scores[order]) != 0, True)
    true = np.cumsum(positive)[last_of_its_score] / positive.sum()
    false = np.cumsum(~positive)[last_of_its_score] / (~positive).sum()
    return np.append(0.0, false), np.append(0.0, true)
