"""What anomalib's figures are made of: the images of a batch that could be judged.

anomalib knows no verdict besides good and anomalous, and one NaN among its scores makes every
figure, threshold and range of a run NaN.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from anomalib.data import Batch
from anomalib.metrics import Evaluator

_FIELDS = ("pred_score", "pred_label", "anomaly_map", "pred_mask", "gt_label", "gt_mask")


def judged(batch: Batch) -> Any | None:
    """The fields of a batch that figures are made of, without the images that have no score; None
    where none has one. Places of a map that nothing was compared at count as 0, below all others:
    figures of pixels are of all of them, and a defect there is missed."""
    score = batch.pred_score
    if score is None:
        return batch
    keep = score.flatten(1).isfinite().all(1) if score.dim() > 1 else score.isfinite()
    if not bool(keep.any()):
        return None
    values = {name: getattr(batch, name, None) for name in _FIELDS}
    kept = {name: None if value is None else value[keep] for name, value in values.items()}
    if kept["anomaly_map"] is not None:
        kept["anomaly_map"] = kept["anomaly_map"].nan_to_num(0.0)
    return SimpleNamespace(**kept)


class JudgingEvaluator(Evaluator):
    """anomalib's own, of the images that could be judged."""

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        """As anomalib's."""
        if (left := judged(batch)) is not None:
            super().on_validation_batch_end(trainer, pl_module, outputs, left, *args, **kwargs)

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        """As anomalib's."""
        if (left := judged(batch)) is not None:
            super().on_test_batch_end(trainer, pl_module, outputs, left, *args, **kwargs)
