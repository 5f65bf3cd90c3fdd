"""What a model did with a batch, in full."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from fastalign.roi import RegionsOfInterest


class Measured(NamedTuple):
    """What is known of a batch of B images without looking closer: score ``[B]``, map ``[B,H,W]``,
    coverage ``[B]`` and residual ``[B]`` after alignment, as in :class:`Detail`."""

    score: Tensor
    map: Tensor
    coverage: Tensor
    residual: Tensor


class Way(NamedTuple):
    """What is found between images ``[B,3,H,W]`` and their scores: score, map, aligned and regions
    as in :class:`Detail`; theta ``[B,2,3]`` and residual ``[B]``, None without alignment; coverage
    ``[B]``; and which images and features are free of NaN and infinity, bool ``[B]``."""

    score: Tensor
    map: Tensor
    theta: Tensor | None
    aligned: Tensor
    residual: Tensor | None
    coverage: Tensor
    finite: Tensor
    regions: Tensor


class Detail(NamedTuple):
    """What the model did with a batch of B images.

    score ``[B]``, NaN for an image that cannot be judged (see :meth:`FYD.forward`); map ``[B,H,W]``
    in the frame of the input, NaN where nothing was compared; theta ``[B,2,3]``,
    all warps composed, aligned to input coordinates; valid ``[B,h,w]`` bool, the locations of the
    aligned frame that the image covers; aligned ``[B,3,H,W]``; residual_before and residual_after
    ``[B]``, 1 minus the correlation of edges with the mean of the training images, NaN without
    alignment; shift as a fraction of the image, rotation in degrees, scale as a factor, each
    ``[B]``; coverage ``[B]``, the share of the part that the image covers: of the locations that
    enough training images showed, or of the region of interest that it covers least of; regions
    ``[B,R]``, the largest value of the map in each region of interest, NaN where the image cannot
    be judged or shows nothing of it; R is 0 where the whole part is judged. Of an image with values
    that are not finite all figures are NaN and no location is valid.
    """

    score: Tensor
    map: Tensor
    theta: Tensor
    valid: Tensor
    aligned: Tensor
    residual_before: Tensor
    residual_after: Tensor
    shift: Tensor
    rotation: Tensor
    scale: Tensor
    coverage: Tensor
    regions: Tensor


def roi_scores(roi: RegionsOfInterest, detail: Detail, index: int) -> dict[str, float | None]:
    """The score of each region of interest in image ``index`` of a batch, by name; None where there
    is none."""
    scores = detail.regions[index].tolist()
    known = [score if math.isfinite(score) else None for score in scores]
    return dict(zip(roi.names, known, strict=True))
