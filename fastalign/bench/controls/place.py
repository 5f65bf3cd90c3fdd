"""Nearest neighbours at the same place of aligned images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from fastalign.bench.controls.features import Judged, Seen, concatenated

# Training photographs whose features are kept, at most.
PHOTOGRAPHS = 100


class SamePlace:
    """Distance of each location's features to the nearest of the training photographs' features at
    the same location, or up to ``radius`` locations beside it, after our alignment.

    All channels on the grid of the finest stage. Ours, as a control of the density: SPADE's
    comparison of locations (Cohen and Hoshen, arXiv 2005.02357) held to the place that alignment
    gives. A location that no training photograph shows cannot be judged.

    Arguments:
        radius: in locations, along both axes.
        photographs: that are kept, the first ones.
    """

    aligned, turns = True, 1

    def __init__(self, radius: int, photographs: int = PHOTOGRAPHS) -> None:
        self._radius, self._photographs = radius, photographs

    def fit(self, batches: Iterable[Seen], images: int) -> None:
        kept, norms, number = [], [], 0
        for seen in batches:
            part = seen[: self._photographs - number]
            if not len(part):
                break
            features = concatenated(part.stages).permute(2, 3, 0, 1)
            norm = features.square().sum(3)
            if part.valid is not None:
                norm = norm.masked_fill(~part.valid.permute(1, 2, 0), torch.inf)
            kept.append(features)
            norms.append(norm)
            number += len(part)
        self._bank = torch.cat(kept, 2).contiguous()  # [h,w,N,C]
        self._norms = torch.cat(norms, 2)  # [h,w,N]

    def score(self, seen: Seen) -> Judged:
        features = concatenated(seen.stages).permute(2, 3, 0, 1).contiguous()  # [h,w,B,C]
        height, width, number, _ = features.shape
        least = features.new_full((height, width, number), torch.inf)
        reach = range(-self._radius, self._radius + 1)
        for row in range(height):
            for near in (row + step for step in reach if 0 <= row + step < height):
                for own, other in self._shifts(width):
                    norms = self._norms[near, other, None, :]
                    bank = self._bank[near, other].mT
                    found = torch.baddbmm(norms, features[row, own], bank, alpha=-2).amin(2)
                    torch.minimum(least[row, own], found, out=least[row, own])
        support = least[:, :, 0].isfinite()
        square = (least + features.square().sum(3)).clamp_min(0)
        distance = torch.where(support[..., None], square, 0).sqrt().permute(2, 0, 1)
        return Judged(distance, support=support)

    def _shifts(self, width: int) -> Iterator[tuple[slice, slice]]:
        """Which columns are compared with which."""
        for step in range(-self._radius, self._radius + 1):
            own = slice(max(0, -step), min(width, width - step))
            if own.start < own.stop:
                yield own, slice(own.start + step, own.stop + step)

    def stored(self) -> list[Tensor]:
        return [self._bank, self._norms.isfinite()]
