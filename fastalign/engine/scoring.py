"""What evaluating and predicting share: one image in, its scores and diagnostics out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from fastalign.data import Depth
from fastalign.engine.results import Alignment

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD, Detail

NO_THRESHOLD = (
    "the model has no threshold: it was fitted without normal validation images, so nothing is "
    "labelled; fit with more good images to get one, or give --threshold to predict"
)


@dataclass(frozen=True)
class Thresholds:
    """The model's thresholds; None where it was fitted without validation images."""

    image: float | None
    pixel: float | None

    def label(self, score: float) -> int | None:
        """1 above the image threshold, 0 otherwise, None without a threshold."""
        return None if self.image is None else int(score > self.image)

    @property
    def pixel_or_nan(self) -> float:
        """The pixel threshold, NaN where there is none."""
        return math.nan if self.pixel is None else self.pixel


def thresholds(model: FYD) -> Thresholds:
    """The two stored thresholds; a NaN buffer means that there is none."""

    def value(buffer: torch.Tensor) -> float | None:
        number = float(buffer)
        return None if math.isnan(number) else number

    return Thresholds(value(model.image_threshold), value(model.pixel_threshold))


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
        covered=float(detail.valid[index].float().mean()),
    )


def aligned_picture(
    detail: Detail, index: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """The aligned image, uint8 ``[h, w, 3]``, and which of it the photograph covers, ``[h, w]``."""
    aligned = detail.aligned[index].detach().float().clamp(0, 1).mul(255).round().byte()
    picture = aligned.permute(1, 2, 0).cpu().numpy()
    valid = detail.valid[index][None, None].float()
    covered = F.interpolate(valid, picture.shape[:2], mode="nearest")[0, 0] > 0.5
    return picture, covered.cpu().numpy()


def map_at(scores: torch.Tensor, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """A score map ``[h, w]`` at ``size`` (height, width), bilinear, float32."""
    scores = scores.detach().float()
    if tuple(scores.shape) != tuple(size):
        scores = F.interpolate(scores[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    return scores.cpu().numpy()
