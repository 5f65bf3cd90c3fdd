"""What evaluating and predicting share: one image in, its scores and diagnostics out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from fastalign.data import Depth
from fastalign.data.tensors import resized, to_float
from fastalign.engine.results import Alignment
from fastalign.models.evidence import Evidence
from fastalign.numeric import real_number
from fastalign.verdict import Verdict, judge, judge_each

if TYPE_CHECKING:
    from fastalign.models.detail import Detail
    from fastalign.models.fyd import FYD

NO_THRESHOLD = (
    "the model has no threshold: it was fitted without normal validation images, so nothing is "
    "labelled; fit with more good images to get one, or give --threshold to predict"
)

_LISTED = 5
# By the number of a verdict; -1, unsure, is the last.
_MASK_VALUES = np.array([0, 255, 128], np.uint8)


@dataclass(frozen=True)
class Thresholds:
    """The model's thresholds; None where it was fitted without validation images."""

    image: float | None
    pixel: float | None

    def verdict(self, score: float) -> Verdict:
        """What an image of this score is."""
        return judge(score, self.image)

    def label(self, score: float) -> int | None:
        """1 for an anomaly, 0 for good, None for an image that is unsure."""
        verdict = self.verdict(score)
        return None if verdict is Verdict.UNSURE else int(verdict)

    def given(self, image: float | None, pixel: float | None) -> Thresholds:
        """With what was given for a run in their place; one for images alone holds for pixels too,
        so that an image is an anomaly where its mask shows something.

        Raises:
            ConfigError: a number that is not finite.
        """
        if image is not None:
            image = real_number("threshold", image)
        if pixel is not None:
            pixel = real_number("pixel threshold", pixel)
        masks = image if pixel is None else pixel
        return replace(
            self,
            image=self.image if image is None else image,
            pixel=self.pixel if masks is None else masks,
        )

    def mask(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """A map ``[h, w]`` as a mask: 255 for an anomaly, 0 for good, 128 where unsure."""
        return _MASK_VALUES[judge_each(scores, self.pixel)]

    @property
    def pixel_or_nan(self) -> float:
        """The pixel threshold, NaN where there is none."""
        return math.nan if self.pixel is None else self.pixel


def listed(names: Sequence[str]) -> str:
    """The first names, and how many follow."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def thresholds(model: FYD) -> Thresholds:
    """The two stored thresholds; a NaN buffer means that there is none."""

    def value(buffer: torch.Tensor) -> float | None:
        number = float(buffer)
        return None if math.isnan(number) else number

    return Thresholds(value(model.image_threshold), value(model.pixel_threshold))


def evidence_of(model: FYD) -> Evidence:
    """What an image must show to be judged."""
    return Evidence.from_record(model.extra_metadata().get("evidence"))


def lacks_limits(model: FYD) -> bool:
    """Whether a model that aligns keeps nothing of normal images to compare coverage and poses
    with."""
    metadata = model.extra_metadata()
    aligned = (metadata.get("alignment") or {}).get("used")
    return bool(aligned) and metadata.get("evidence") is None


def stored_depth(model: FYD) -> Depth | None:
    """The depth of 16-bit photographs that the model was fitted on; None where it says nothing."""
    return Depth.from_record(model.extra_metadata().get("depth"))


def alignment_of(detail: Detail, index: int) -> Alignment:
    """Diagnostics of one image of a batch."""
    return Alignment(
        residual_before=float(detail.residual_before[index]),
        residual_after=float(detail.residual_after[index]),
        shift=float(detail.shift[index]),
        rotation=float(detail.rotation[index]),
        scale=float(detail.scale[index]),
        covered=float(detail.coverage[index]),
    )


def aligned_picture(
    detail: Detail, index: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """The aligned image, uint8 ``[h, w, 3]``, and which of it the photograph covers, ``[h, w]``."""
    aligned = (
        detail.aligned[index].detach().float().nan_to_num().clamp(0, 1).mul(255).round().byte()
    )
    picture = aligned.permute(1, 2, 0).cpu().numpy()
    valid = detail.valid[index][None, None].float()
    covered = F.interpolate(valid, picture.shape[:2], mode="nearest")[0, 0] > 0.5
    return picture, covered.cpu().numpy()


def map_at(scores: torch.Tensor, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """A score map ``[h, w]`` at ``size`` (height, width), bilinear, float32; NaN where the nearest
    score is."""
    scores = scores.detach().float()
    if tuple(scores.shape) != tuple(size):
        known = scores.isfinite()
        both = torch.stack([torch.where(known, scores, 0), known.float()])[None]
        values, share = F.interpolate(both, size, mode="bilinear", align_corners=False)[0]
        scores = torch.where(share >= 0.5, values / share, torch.nan)
    return scores.cpu().numpy()


def score_resized(model: FYD, images: list[torch.Tensor]) -> Detail:
    """What the model says of images uint8 ``[3,h,w]`` of its size."""
    batch = to_float(torch.stack(images))
    with torch.inference_mode():
        return model.predict_detail(batch.to(model.image_threshold.device))


def score_images(model: FYD, images: list[npt.NDArray[np.uint8]]) -> Detail:
    """What the model says of images uint8 ``[h,w,3]`` of any size."""
    return score_resized(model, [resized(image, model.config.image_size) for image in images])
