"""anomalib's post-processor, whose labels know two outcomes only."""

from __future__ import annotations

from typing import Any

import torch
from anomalib.data import Batch, InferenceBatch
from anomalib.post_processing import PostProcessor
from torch import Tensor

from fastalign.integrations.anomalib.judged import judged


class JudgingPostProcessor(PostProcessor):
    """anomalib's own; what could not be judged is labelled an anomaly, and sets no threshold.

    A label is True or False there, and ``NaN > threshold`` is False, which would be "good". The
    score, which stays NaN, tells the two apart. Where only a place of an image was not looked at,
    its map is NaN there, and the mask leaves the place out.
    """

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        """As anomalib's, of the images that could be judged."""
        if (left := judged(outputs)) is not None:
            super().on_validation_batch_end(trainer, pl_module, left, *args, **kwargs)

    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        """As anomalib's, also in exported files."""
        found = super().forward(predictions)
        return found._replace(
            pred_label=_never_good(found.pred_label, found.pred_score),
            pred_mask=_never_good(found.pred_mask, found.pred_score),
        )

    def threshold_batch(self, batch: Batch) -> None:
        """As anomalib's."""
        super().threshold_batch(batch)
        batch.pred_label = _never_good(batch.pred_label, batch.pred_score)
        batch.pred_mask = _never_good(batch.pred_mask, batch.pred_score)


def _never_good(labels: Tensor | None, scores: Tensor | None) -> Tensor | None:
    """Labels ``[B,...]`` with those of images without a score, ``[B]`` or ``[B,1]``, True."""
    # Without a threshold anomalib hands the scores on as labels.
    if labels is None or scores is None or labels.dtype != torch.bool:
        return labels
    unsure = ~scores.isfinite()
    if labels.dim() > unsure.dim():
        unsure = unsure.reshape(-1, *[1] * (labels.dim() - 1))
    return labels | unsure
