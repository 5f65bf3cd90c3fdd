"""Regions of interest in the part's frame: distances to maps of them alone. Ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastalign.nn.smoothing import smooth
from fastalign.ops import affine, warp_affine

# Below this share of what a region can show at a pixel, the pixel has no evidence.
_LEAST_EVIDENCE = 0.05


def largest(values: Tensor, share: float, pixels: int) -> Tensor:
    """Of values ``[B,H,W]`` the largest, or the mean of so many as the share of ``pixels``, the
    largest: ``[B]``."""
    number = int(share * pixels)
    if number < 2:
        return values.amax((1, 2))
    return values.flatten(1).topk(number, 1, sorted=False).values.mean(1)


class Regional(NamedTuple):
    """Of a batch of B images with R regions: maps ``[B,H,W]``, 0 where nothing is judged; where
    something is, bool ``[B,H,W]``; the largest value in each region, or the mean of the largest,
    ``[B,R]``; and which regions were seen at all, bool ``[B,R]``."""

    maps: Tensor
    seen: Tensor
    scores: Tensor
    shown: Tensor


class RegionMaps(nn.Module):
    """Maps of regions of interest.

    Each region is smoothed by itself: what lies beside it, ignored or of another region, has no
    part in its values, however large. A location of the distances counts in a region by the share
    of it that the region takes.

    Arguments:
        labels: uint8 ``[H,W]`` of the part's frame: k + 1 is region k, 0 is not judged.
        gain: ``[R]``, what the values of each region are multiplied with.
        size: height and width of the distances.

    Raises:
        ValueError: labels without a region, or a region without a place; a gain that is not above
            0.
    """

    labels: Tensor
    gain: Tensor
    weights: Tensor

    def __init__(self, labels: Tensor, gain: Tensor, size: tuple[int, int]) -> None:
        super().__init__()
        there = torch.unique(labels[labels > 0]).tolist()
        if labels.dim() != 2 or not there or there != list(range(1, len(gain) + 1)):
            raise ValueError(f"labels of regions {there}, expected each of 1 to {len(gain)}")
        if not bool((gain.isfinite() & (gain > 0)).all()):
            # Values times 0 are 0, which is good.
            raise ValueError("gains of regions that are not above 0")
        self.register_buffer("labels", labels.to(torch.uint8))
        self.register_buffer("gain", gain.float())
        own = torch.stack([labels == number for number in there]).float()
        # The share of each location that a region takes, ``[R,h,w]``.
        weights = F.interpolate(own[None], size, mode="area")[0]
        self.register_buffer("weights", weights, persistent=False)
        self.pixels = [int(part.sum()) for part in own]

    def forward(
        self,
        distance: Tensor,
        theta: Tensor | None,
        support: Tensor | None,
        valid: Tensor | None,
        sigma: float,
        top_share: float = 0.0,
    ) -> Regional:
        """Maps of distances ``[B,h,w]``; the arguments are those of
        :meth:`fastalign.models.maps.AnomalyMaps.map_from`, ``support`` as well ``[B,h,w]``;
        ``top_share``: of :class:`fastalign.models.maps.AnomalyMaps`, of each region's pixels."""
        size = (self.labels.shape[0], self.labels.shape[1])
        back = None if theta is None else affine.invert(theta)
        if valid is None and theta is not None:
            valid = affine.valid_mask(theta, size, distance.shape[1:])
        labels = self._in_image(back, distance.shape[0])
        shown = _both(valid, support)
        maps = torch.zeros_like(labels, dtype=distance.dtype)
        seen = torch.zeros_like(labels, dtype=torch.bool)
        scores, known = [], []
        for number in range(len(self.gain)):
            weight = self.weights[number].expand_as(distance)
            evidence = weight if shown is None else weight * shown
            parts = torch.stack([distance * evidence, evidence, weight], 1)
            if back is None:
                parts = F.interpolate(parts, size, mode="bilinear", align_corners=False)
            else:
                parts = warp_affine(parts, back, size=size)
            value, share, whole = smooth(parts, sigma).unbind(1)
            here = (labels == number + 1) & (share > _LEAST_EVIDENCE * whole)
            value = torch.where(here, value / share.clamp_min(1e-9) * self.gain[number], 0)
            maps, seen = maps + value, seen | here
            scores.append(largest(value, top_share, self.pixels[number]))
            known.append(here.flatten(1).any(1))
        return Regional(maps, seen, torch.stack(scores, 1), torch.stack(known, 1))

    if TYPE_CHECKING:  # nn.Module types calls as Any
        __call__ = forward

    def _in_image(self, back: Tensor | None, images: int) -> Tensor:
        """The labels at each pixel of the images, float ``[B,H,W]``; 0 outside of the frame."""
        labels = self.labels.float().expand(images, 1, *self.labels.shape)
        if back is None:
            return labels[:, 0]
        return warp_affine(labels.contiguous(), back, mode="nearest")[:, 0]

    def coverage(self, valid: Tensor | None, support: Tensor | None, images: Tensor) -> Tensor:
        """The share of the region that each image shows least of, ``[B]`` float32; arguments as
        those of :func:`fastalign.models.evidence.coverage_of`."""
        if valid is None:
            return torch.ones(images.shape[0], device=images.device)
        weights = self.weights if support is None else self.weights * support
        shown = (valid[:, None] * weights).sum((2, 3)) / weights.sum((1, 2)).clamp_min(1e-9)
        return shown.amin(1)

    def supported(self, support: Tensor | None) -> Tensor:
        """Which regions, bool ``[R]``, have locations with support ``[h,w]`` (None: all have)."""
        weights = self.weights if support is None else self.weights * support
        return weights.flatten(1).any(1)


def _both(valid: Tensor | None, support: Tensor | None) -> Tensor | None:
    if valid is None or support is None:
        return support if valid is None else valid
    return valid & support
