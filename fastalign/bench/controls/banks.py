"""Nearest neighbours in a bank of features of all locations: where a patch lies does not count."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from fastalign.bench.controls.features import Judged, Seen, patches

# Features that a coreset is chosen from, and those of a bank that is drawn at random, at most.
CANDIDATES = 1 << 16
BANK = 20_000
# Dimensions of the random projection, as in the authors' code.
_PROJECTED = 128
# Distances that are held at once.
_ENTRIES = 1 << 24


class Patchcore:
    """Distance of each patch to the nearest of a coreset of good patches.

    Roth et al., *Towards Total Recall in Industrial Anomaly Detection*, CVPR 2022, arXiv
    2106.08265: patches of all stages but the finest, averaged over 3 x 3; a tenth of them kept by
    greedy k-center selection on randomly projected patches; an image's score is the largest
    distance, reweighted by the neighbours of the nearest patch (equation 7).

    Of more than :data:`CANDIDATES` patches so many are drawn at random before the selection.

    Arguments:
        seed: of what is drawn.
        kept: share of the patches that stay.
        neighbours: of the reweighting.
        candidates: patches that are chosen from, at most.
    """

    aligned, turns = False, 1

    def __init__(
        self, seed: int, kept: float = 0.1, neighbours: int = 9, candidates: int = CANDIDATES
    ) -> None:
        self._seed, self._kept = seed, kept
        self._neighbours, self._candidates = neighbours, candidates

    def fit(self, batches: Iterable[Seen], images: int) -> None:
        generator = torch.Generator().manual_seed(self._seed)
        pool = drawn(batches, images, self._candidates, generator)
        self._prepare(pool)
        pool = self._transformed(pool)
        chosen = coreset(pool, max(1, int(self._kept * len(pool))), generator)
        self._bank = pool[chosen].contiguous()

    def _prepare(self, pool: Tensor) -> None:
        """Learn how patches ``[M,C]`` are transformed."""

    def _transformed(self, vectors: Tensor) -> Tensor:
        """Patches ``[...,C]`` as they are compared."""
        return vectors

    def score(self, seen: Seen) -> Judged:
        found = patches(seen.stages).permute(0, 2, 3, 1)
        vectors = self._transformed(found.flatten(1, 2))
        distance, index = nearest(vectors.flatten(0, 1), self._bank)
        distance, index = (x.view(vectors.shape[:2]) for x in (distance, index))
        largest, where = distance.max(1)
        every = torch.arange(len(vectors), device=where.device)
        score = largest * self._weight(vectors[every, where], index[every, where])
        return Judged(distance.view(found.shape[:3]), score)

    def _weight(self, patch: Tensor, index: Tensor) -> Tensor:
        """One less the share of exp(distance) that the nearest of the bank, ``index [B]``, has
        among its own neighbours, for patches ``[B,C]``."""
        own = torch.cdist(self._bank[index], self._bank)
        around = own.topk(min(self._neighbours, len(self._bank)), largest=False).indices
        distances = torch.cdist(patch[:, None], self._bank[around])[:, 0]
        return 1 - distances.softmax(1)[:, 0] if distances.shape[1] > 1 else patch.new_ones(())

    def stored(self) -> list[Tensor]:
        return [self._bank]


class MahalanobisPatchcore(Patchcore):
    """PatchCore on whitened patches, so that its distances are Mahalanobis distances.

    *Mahalanobis PatchCore*, 2026, arXiv 2605.27748, by the settings of its published code:
    principal components of 99 % of the variance, their covariance shrunk by 0.07 towards its mean
    variance. Its formula alone: the covariance comes from the candidates at once, and the bank is
    PatchCore's coreset instead of one that is merged piece by piece.
    """

    _variance, _shrinkage = 0.99, 0.07

    def _prepare(self, pool: Tensor) -> None:
        self._mean = pool.mean(0)
        centred = pool - self._mean
        values, vectors = principal(centred.mT @ centred / max(1, len(pool) - 1), self._variance)
        shrunk = (1 - self._shrinkage) * values + self._shrinkage * values.mean()
        self._whitener = vectors / shrunk.clamp_min(1e-12).sqrt()

    def _transformed(self, vectors: Tensor) -> Tensor:
        return (vectors - self._mean) @ self._whitener

    def stored(self) -> list[Tensor]:
        return [self._bank, self._mean, self._whitener]


class PositionFree:
    """Distance of each patch to the nearest of :data:`BANK` drawn from all locations of the
    training photographs and of turned copies of them.

    PatchCore's patches without its selection; the turned copies are what stands in for alignment
    (as rotations do in *AnomalyDINO*, Damm et al., WACV 2025, arXiv 2405.14529).

    Arguments:
        turns: copies of each training photograph, itself included, over a full turn.
        seed: of what is drawn.
        size: of the bank, at most.
    """

    aligned = False

    def __init__(self, turns: int, seed: int, size: int = BANK) -> None:
        self.turns, self._seed, self._size = turns, seed, size

    def fit(self, batches: Iterable[Seen], images: int) -> None:
        generator = torch.Generator().manual_seed(self._seed)
        self._bank = drawn(batches, images, self._size, generator)

    def score(self, seen: Seen) -> Judged:
        found = patches(seen.stages).permute(0, 2, 3, 1)
        distance, _ = nearest(found.flatten(0, 2), self._bank)
        return Judged(distance.view(found.shape[:3]))

    def stored(self) -> list[Tensor]:
        return [self._bank]


def principal(covariance: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The fewest largest eigenvalues ``[d]`` that make up a share of the variance, and their
    eigenvectors ``[C,d]``, both in the dtype of ``covariance [C,C]``."""
    values, vectors = torch.linalg.eigh(covariance.double())
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    number = int((values.cumsum(0) < share * values.sum()).sum()) + 1
    number = min(number, len(values))
    return values[:number].to(covariance.dtype), vectors[:, :number].to(covariance.dtype)


def drawn(batches: Iterable[Seen], images: int, most: int, generator: torch.Generator) -> Tensor:
    """Patches ``[M,C]`` of ``images`` images: all of them, or ``most`` at random, as many of each
    image as of the others."""
    kept = []
    for seen in batches:
        found = patches(seen.stages).flatten(2).mT
        places = found.shape[1]
        each = max(1, most // images)
        for image in found:
            if images * places > most:
                order = torch.randperm(places, generator=generator)[:each]
                image = image[order.to(image.device)]
            kept.append(image)
    pool = torch.cat(kept)
    if len(pool) <= most:
        return pool
    return pool[torch.randperm(len(pool), generator=generator)[:most].to(pool.device)]


def coreset(vectors: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Indices ``[number]`` of a greedy k-center selection of ``vectors [M,C]``: each is the one
    farthest from those before, the first is random (Sener and Savarese, ICLR 2018); of more than
    128 dimensions on a Gaussian random projection to so many."""
    if vectors.shape[1] > _PROJECTED:
        shape = vectors.shape[1], _PROJECTED
        projection = torch.randn(shape, generator=generator).to(vectors) / _PROJECTED**0.5
        vectors = vectors @ projection
    # As distances do not change, numbers near zero, whose squares lose least.
    vectors = (vectors - vectors.mean(0)).contiguous()
    norms = vectors.square().sum(1)
    first = torch.randint(len(vectors), (1,), generator=generator).to(vectors.device)
    chosen, left = [first], torch.full_like(norms, torch.inf)
    for _ in range(min(number, len(vectors)) - 1):
        centre = chosen[-1]
        to_centre = torch.addmv(norms, vectors, vectors[centre][0], alpha=-2).add_(norms[centre])
        left = torch.minimum(left, to_centre)
        left[centre] = -torch.inf
        chosen.append(left.argmax(0, keepdim=True))
    return torch.cat(chosen)


def nearest(vectors: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Distance ``[Q]`` of vectors ``[Q,C]`` to the nearest of ``bank [M,C]``, and its index."""
    norms, found, indices = bank.square().sum(1), [], []
    for part in vectors.split(max(1, _ENTRIES // len(bank))):
        least, index = torch.addmm(norms, part, bank.mT, alpha=-2).min(1)
        found.append((least + part.square().sum(1)).clamp_min(0).sqrt())
        indices.append(index)
    return torch.cat(found), torch.cat(indices)
