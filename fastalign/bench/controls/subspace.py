"""One subspace of normal features for all locations."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from fastalign.bench.controls.banks import principal
from fastalign.bench.controls.features import Judged, Seen, concatenated

# Vectors whose products are summed in float32.
_BLOCK = 1 << 14


class PcaResidual:
    """Length of what the principal components of all locations' features leave of a location's.

    The components that make up 99 % of the variance, of all channels on the grid of the finest
    stage, in one model for all locations: *SubspaceAD*, Lendering et al., CVPR 2026, arXiv
    2602.23013, there on DINOv2; the reconstruction error of *FRE*, Ndiour et al., arXiv 2211.12650.

    Arguments:
        share: of the variance that the components make up.
    """

    aligned, turns = False, 1

    def __init__(self, share: float = 0.99) -> None:
        self._share = share

    def fit(self, batches: Iterable[Seen], images: int) -> None:
        moments: tuple[Tensor, Tensor, Tensor] | None = None
        count = 0
        for seen in batches:
            vectors = concatenated(seen.stages).transpose(0, 1).flatten(1)
            if moments is None:
                # About the middle of the first images: products of what lies far from zero would
                # lose the small components.
                shift, zero = vectors.mean(1), vectors.new_zeros((), dtype=torch.float64)
                moments = shift, zero, zero
            shift, total, products = moments
            vectors = vectors - shift[:, None]
            blocks = vectors.split(_BLOCK, 1)
            products = products + torch.stack([(v @ v.mT).double() for v in blocks]).sum(0)
            moments = shift, total + vectors.sum(1, dtype=torch.float64), products
            count += vectors.shape[1]
        assert moments is not None
        shift, total, products = moments
        mean = total / count
        _, components = principal(products / count - mean.outer(mean), self._share)
        self._mean, self._components = shift + mean.float(), components.float()

    def score(self, seen: Seen) -> Judged:
        features = concatenated(seen.stages)
        centred = (features - self._mean[:, None, None]).permute(0, 2, 3, 1)
        rest = centred - (centred @ self._components) @ self._components.mT
        return Judged(torch.linalg.vector_norm(rest, dim=3))

    def stored(self) -> list[Tensor]:
        return [self._mean, self._components]
