"""The one place where a score meets a threshold; what could not be judged never becomes good."""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor


class Verdict(enum.IntEnum):
    """What a score says about an image or a pixel; the number is the ``label`` of exported files.

    ``UNSURE``: the score is NaN or infinite, because there was not enough to judge by, or there is
    no threshold.
    """

    UNSURE = -1
    GOOD = 0
    ANOMALY = 1

    @property
    def text(self) -> str:
        """``"unsure"``, ``"good"`` or ``"anomaly"``."""
        return self.name.lower()


TRUTHS = {int(known): known.text for known in (Verdict.GOOD, Verdict.ANOMALY)}
"""What labels that are known are called."""


def judge(score: float, threshold: float | None) -> Verdict:
    """The verdict on one score.

    Args:
        score: of an image or a pixel; a tensor of one number will do.
        threshold: scores above it are anomalies; None, NaN or infinite: there is none.
    """
    score, limit = float(score), math.nan if threshold is None else float(threshold)
    if not (math.isfinite(score) and math.isfinite(limit)):
        return Verdict.UNSURE
    return Verdict.ANOMALY if score > limit else Verdict.GOOD


@overload
def judge_each(scores: Tensor, threshold: float | Tensor | None) -> Tensor: ...


@overload
def judge_each(
    scores: npt.NDArray[np.floating[Any]], threshold: float | None
) -> npt.NDArray[np.int8]: ...


def judge_each(scores: Any, threshold: Any) -> Any:
    """The verdicts on a map or a batch of scores, as :func:`judge` on each.

    Args:
        scores: floating point of any shape, a tensor or a numpy array.
        threshold: as in :func:`judge`; with a tensor of scores a tensor of one number as well,
            which then stays where it is.

    Returns:
        int8 of the same shape, kind and device: the numbers of :class:`Verdict`.
    """
    limit = math.nan if threshold is None else threshold
    if hasattr(scores, "isfinite"):
        import torch

        limit = torch.as_tensor(limit, dtype=scores.dtype, device=scores.device)
        judged = scores.isfinite() & limit.isfinite()
        return torch.where(judged, (scores > limit).to(torch.int8), int(Verdict.UNSURE))
    import numpy as np

    judged = np.isfinite(scores) & np.isfinite(limit)
    verdicts = (np.asarray(scores) > limit).astype(np.int8)
    return np.where(judged, verdicts, np.int8(Verdict.UNSURE))
