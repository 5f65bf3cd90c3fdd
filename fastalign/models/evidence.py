"""Whether enough of an image was looked at to judge it: coverage and pose beside normal ones. Ours.

A score says how far what was compared is from the normal images. Where less of the part was
compared than of any normal image, or in other places since its pose was not found, a low score is
no evidence, and a high one none of a defect.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from fastalign.models.detail import Detail

# How far below the least coverage of normal images the limit lies: this share of the way from the
# usual to the least, and a margin.
_BEYOND = 0.5
_MARGIN = 0.02
# The margin is wider the fewer they are: one more is beyond all of n with a chance of 1 in n + 1.
_FEW = 0.25
# A pose is lost where the residual is nearer to 1, that of edges that have nothing to do with the
# template, than to the largest of normal images: defects change edges as well.
_LOST = 0.5

# What coverage is a share of.
PART = "the part"
NOT_FINITE = "values that are not finite, in the image or in its features"
NOTHING = "alignment left nothing of it to compare"
NO_LIMITS = (
    "the model keeps nothing of how normal images are covered and aligned (an earlier version "
    "fitted it), so an image that shows a part of the part, or whose pose was not found, is judged "
    "as any other; fit it again to have it called unsure"
)


@dataclass(frozen=True)
class Usual:
    """A figure of normal images.

    Attributes:
        least, median, most: of the images.
        limit: beyond it an image is unsure.
        images: how many they were.
    """

    least: float
    median: float
    most: float
    limit: float
    images: int

    @classmethod
    def of_coverage(cls, shares: Sequence[float]) -> Usual | None:
        """Of the shares of the part that normal images cover; None without any."""
        if not shares:
            return None
        middle, least = median(shares), min(shares)
        limit = least - _BEYOND * (middle - least) - _MARGIN - _FEW / len(shares)
        return cls(least, middle, max(shares), max(0.0, limit), len(shares))

    @classmethod
    def of_residuals(cls, residuals: Sequence[float]) -> Usual | None:
        """Of the residuals of normal images against a template that they are no part of; None
        without any."""
        if not residuals:
            return None
        most = max(residuals)
        limit = most + _LOST * max(0.0, 1 - most)
        return cls(min(residuals), median(residuals), most, limit, len(residuals))


@dataclass(frozen=True)
class Evidence:
    """What an image must show to be judged; None: not known, so nothing is asked.

    Attributes:
        coverage: share of the part, 0 to 1.
        residual: 1 minus the correlation of edges with the template.
        covered_part: what ``coverage`` is a share of, in words.
    """

    coverage: Usual | None = None
    residual: Usual | None = None
    covered_part: str = PART

    def record(self) -> dict[str, Any]:
        """As the metadata of a model keeps it, JSON-able."""
        parts = {"coverage": self.coverage, "residual": self.residual}
        plain: dict[str, Any] = {
            name: asdict(part) for name, part in parts.items() if part is not None
        }
        return plain if self.covered_part == PART else {**plain, "covered_part": self.covered_part}

    @classmethod
    def from_record(cls, record: Mapping[str, Any] | None) -> Evidence:
        """What :meth:`record` gave; of None nothing is known."""
        plain = dict(record or {})
        words = str(plain.pop("covered_part", PART))
        return cls(**{name: Usual(**part) for name, part in plain.items()}, covered_part=words)

    def enough(self, residual: Tensor | None, coverage: Tensor) -> Tensor | None:
        """Which images ``[B]`` have a pose and show enough of the part; None: all."""
        placed, covered = self.placed(residual), self.covered(coverage)
        if placed is None or covered is None:
            return covered if placed is None else placed
        return placed & covered

    def placed(self, residual: Tensor | None) -> Tensor | None:
        """Which images have a pose, bool ``[B]``, by their residual; None: all."""
        if self.residual is None or residual is None:
            return None
        # So written, NaN has one: a template that has no edges tells nothing.
        return ~(residual > self.residual.limit)

    def covered(self, coverage: Tensor) -> Tensor | None:
        """Which images show enough of the part, bool ``[B]``; None: all."""
        return None if self.coverage is None else ~(coverage < self.coverage.limit)

    def reason(self, detail: Detail, index: int) -> str:
        """Why image ``index`` of a batch has no score; empty where it has one."""
        if math.isfinite(float(detail.score[index])):
            return ""
        coverage, residual = float(detail.coverage[index]), float(detail.residual_after[index])
        if math.isnan(coverage):
            return NOT_FINITE
        reasons = []
        if self.residual is not None and residual > self.residual.limit:
            reasons.append(
                f"pose not found: residual {residual:.2f}, normal photographs at most "
                f"{self.residual.most:.2f}"
            )
        if self.coverage is not None and coverage < self.coverage.limit:
            usual = self.coverage
            reasons.append(
                f"covers {_percent(coverage)} of {self.covered_part}, normal photographs "
                f"{_percent(usual.least)} to {_percent(usual.most)}"
            )
        return "; ".join(reasons) or NOTHING


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def or_unknown(residual: Tensor | None, like: Tensor) -> Tensor:
    """A residual ``[B]``, NaN where there is none."""
    return torch.full_like(like, torch.nan) if residual is None else residual


def coverage_of(valid: Tensor | None, support: Tensor | None, images: Tensor) -> Tensor:
    """The share of the part that each image shows, ``[B]`` float32.

    Arguments:
        valid: ``[B,h,w]`` bool, locations of the aligned frame from inside the image; None: all.
        support: ``[h,w]`` bool, the locations that enough normal images showed; None: all.
        images: any tensor ``[B,...]`` on the device.
    """
    if valid is None:
        return torch.ones(images.shape[0], device=images.device)
    shown = valid.float()
    if support is None:
        return shown.sum((1, 2)) / (shown.shape[1] * shown.shape[2])
    part = support.float()
    return (shown * part).sum((1, 2)) / part.sum().clamp_min(1)
