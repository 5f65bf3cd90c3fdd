"""anomalib's post-processor, whose labels know two outcomes only."""

from __future__ import annotations

import torch
from anomalib.data import Batch, InferenceBatch
from anomalib.post_processing import PostProcessor
from torch import Tensor


class JudgingPostProcessor(PostProcessor):
    """anomalib's own; what could not be judged is labelled an anomaly.

    A label is True or False there, and ``NaN > threshold`` is False, which would be "good". The
    score, which stays NaN, tells the two apart.
    """

    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        """As anomalib's, also in exported files."""
        found = super().forward(predictions)
        return found._replace(
            pred_label=_never_good(found.pred_label, found.pred_score),
            pred_mask=_never_good(found.pred_mask, found.anomaly_map),
        )

    def threshold_batch(self, batch: Batch) -> None:
        """As anomalib's."""
        super().threshold_batch(batch)
        batch.pred_label = _never_good(batch.pred_label, batch.pred_score)
        batch.pred_mask = _never_good(batch.pred_mask, batch.anomaly_map)


def _never_good(labels: Tensor | None, scores: Tensor | None) -> Tensor | None:
    # Without a threshold anomalib hands the scores on as labels.
    if labels is None or scores is None or labels.dtype != torch.bool:
        return labels
    return labels | ~scores.isfinite()
