"""PaDiM: a Gaussian at each location."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from fastalign.bench.baselines import inverse_covariance_distance
from fastalign.bench.controls.features import Judged, Seen, concatenated


class Padim:
    """Mahalanobis distance to the Gaussian of the location, over channels drawn at random.

    Defard et al., *PaDiM*, ICPR 2021, arXiv 2011.08785: covariance of N - 1 degrees of freedom plus
    0.01 I; coarser stages by nearest neighbour, as in the authors' and in anomalib's code.

    Arguments:
        seed: of the drawn channels.
        channels: that are kept.
    """

    aligned, turns = False, 1

    def __init__(self, seed: int, channels: int = 100) -> None:
        self._seed, self._channels = seed, channels

    def fit(self, batches: Iterable[Seen], images: int) -> None:
        self._drawn: Tensor | None = None
        features = torch.cat([self._embed(seen) for seen in batches])
        number, channels, height, width = features.shape
        self._mean = features.mean(0)
        centred = (features - self._mean).flatten(2).permute(2, 1, 0)
        covariance = centred @ centred.mT / max(1, number - 1)
        covariance.diagonal(dim1=1, dim2=2).add_(0.01)
        self._inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance))

    def _embed(self, seen: Seen) -> Tensor:
        features = concatenated(seen.stages, "nearest")
        if self._drawn is None:
            generator = torch.Generator().manual_seed(self._seed)
            order = torch.randperm(features.shape[1], generator=generator)
            self._drawn = order[: self._channels].to(features.device)
        return features[:, self._drawn]

    def score(self, seen: Seen) -> Judged:
        return Judged(inverse_covariance_distance(self._embed(seen), self._mean, self._inverse))

    def stored(self) -> list[Tensor]:
        return [self._mean, self._inverse]
