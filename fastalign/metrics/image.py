"""Figures per image: is this image anomalous?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fastalign.errors import InputError
from fastalign.metrics.figures import Figures

IMAGE_FIGURES = ("image_auroc", "image_ap", "image_f1max")


def image_metrics(
    scores: npt.ArrayLike, labels: npt.ArrayLike, names: Sequence[str] | None = None
) -> Figures:
    """AUROC, average precision and the best F1 over all thresholds.

    Computed by scikit-learn: AUROC with ties counting one half, average precision as the sum of
    precision times the step in recall (not interpolated), F1 at every distinct score as threshold
    (``score >= threshold`` is anomalous).

    Args:
        scores: one score per image ``[N]``, higher is more anomalous.
        labels: 0 good, 1 anomalous, ``[N]``.
        names: names of the images, for errors.

    Returns:
        ``image_auroc``, ``image_ap``, ``image_f1max``; all None, with a reason, unless there are
        both good and anomalous images.

    Raises:
        InputError: a score is NaN or infinite; its image is named.
        ValueError: the shapes differ, or a label is neither 0 nor 1.
    """
    values = np.asarray(scores, dtype=np.float64)
    truth = np.asarray(labels)
    if values.ndim != 1 or values.shape != truth.shape:
        raise ValueError(
            f"scores {list(values.shape)} and labels {list(truth.shape)}: give one of each per "
            "image, as [N]."
        )
    if not np.isin(truth, (0, 1)).all():
        odd = truth[~np.isin(truth, (0, 1))][0]
        raise ValueError(f"label {odd}: 0 (good) or 1 (anomalous) expected; leave out the others.")
    if not np.isfinite(values).all():
        index = int(np.flatnonzero(~np.isfinite(values))[0])
        name = names[index] if names is not None else f"image {index}"
        raise InputError(
            f"{name}: its score is {values[index]}; scores must be finite. Check the image and the "
            "model."
        )
    truth = truth.astype(np.int64)
    if truth.all() or not truth.any():
        missing = "good" if truth.any() else "anomalous"
        return Figures.undefined(IMAGE_FIGURES, f"there are no {missing} images")

    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

    precision, recall, _ = precision_recall_curve(truth, values)
    # Where both are 0, so is F1.
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(np.float64).tiny)
    return Figures(
        {
            "image_auroc": float(roc_auc_score(truth, values)),
            "image_ap": float(average_precision_score(truth, values)),
            "image_f1max": float(f1.max()),
        }
    )
