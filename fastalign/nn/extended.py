"""Gaussians that were fitted and stored, joined with more images. Ours.

What is stored of a location is its mean, its whitener and how many images it saw. With d degrees of
freedom (n - 1 images, and those that a prior counts for) and the shrinkage s the covariance is
``A / d + s I``, in which A is all that images and prior have added. For m more images with the sum
S of outer deviations, whose mean lies ``delta`` from the stored one, Chan's update gives::

    A' = A + S + n m / (n + m) delta delta^T,  d' = d + m

so that the new covariance is a sum of parts none of which is negative::

    d / d' covariance + (1 - d / d') s I + (S + n m / (n + m) delta delta^T) / d'

No sum has to be known, and the prior stays as it was.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastalign.errors import ConfigError
from fastalign.nn.low_rank import LowRank, more_low_rank
from fastalign.nn.moments import Moments, PackedTriangle, runs

# Locations whose mean covariance stands for the prior where nothing of a location is stored.
_PLACES = 256


class Stored(NamedTuple):
    """Tensors of a fit: mean ``[C,H*W]`` float32, whitener ``[H*W,C(C+1)/2]`` of any storage, 0
    without support, and images by location ``[H*W]`` int64."""

    mean: Tensor
    whitener: Tensor
    images: Tensor


def joined_means(
    mean: Tensor, before: Tensor, sums: Moments, strength: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Of means ``[C,H*W]`` of so many images ``[H*W]`` before, with the new ones: the means
    ``[H*W,C]`` float64, those stored bit for bit where nothing is new, and the vectors ``[H*W,C]``
    whose outer products the sums of both gain. Means that a prior of some ``strength`` has drawn
    count for as many photographs more, as its posterior does."""
    after = before + sums.count
    share = sums.count / (strength * (before > 0) + after).clamp_min(1).double()
    stored = mean.t().double()
    delta = sums.mean - stored
    means = torch.where((sums.count > 0)[:, None], stored + delta * share.unsqueeze(-1), stored)
    return means, delta * (before * share).sqrt().unsqueeze(-1)


def extended(
    stored: Stored,
    sums: Moments,
    *,
    strength: float,
    shrinkage: float,
    min_count: int,
    mean_strength: float = 0.0,
) -> Stored:
    """The fit after more images, to the rounding of what is stored.

    Of a location without support nothing but its mean is stored, and that tells something where one
    image has seen it; else it begins anew with the new images.

    Args:
        stored: the fit.
        sums: of the new images, at all its locations.
        strength: of the prior that it was fitted with, in photographs; 0: none.
        shrinkage: that was added to the variances.
        min_count: images below which a location has no support.
        mean_strength: of the prior of its means, in photographs; 0: none.

    Raises:
        ConfigError: a covariance is not positive definite, or leaves the range of the storage.
    """
    mean, whitener, count = stored
    channels = len(mean)
    triangle = PackedTriangle(channels, mean.device)
    identity = torch.eye(channels, dtype=torch.float64, device=mean.device)
    known = whitener[:, 0] > 0
    pooled = _pooled(whitener, known, triangle, shrinkage) if strength > 0 else None
    before = torch.where(known, count, torch.where(count <= 1, count, 0))
    after = before + sums.count
    fresh = sums.count > 0
    means, gain = joined_means(mean, before, sums, mean_strength)
    freedom = (strength + before - 1).clamp_min(0).double()
    total = (strength + after - 1).clamp_min(0).double()
    support = after >= min_count
    result = torch.zeros_like(whitener)
    lost = torch.zeros_like(support)
    for run in runs(len(count), 8 * channels**2, mean.device):
        own = _covariance(whitener[run], known[run], triangle, identity)
        if pooled is not None:
            base = pooled + shrinkage * identity
            own = torch.where(known[run, None, None], own, base)
        old = (freedom[run] / total[run].clamp_min(1e-300)).clamp_max(1)[:, None, None]
        new = triangle.symmetric(sums.outer[run]).double()
        new += gain[run, :, None] * gain[run, None, :]
        covariance = old * own + (1 - old) * shrinkage * identity
        covariance += new / total[run].clamp_min(1)[:, None, None]
        factor, info = torch.linalg.cholesky_ex(covariance)
        lost[run] = (info != 0) & support[run] & fresh[run]
        factor = torch.where((info != 0)[:, None, None], identity, factor)
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
        packed = triangle.pack(inverse).to(whitener.dtype)
        packed = torch.where(fresh[run, None], packed, whitener[run])
        result[run] = torch.where(support[run, None], packed, 0)
    if bool(lost.any()) or not bool(result.isfinite().all()):
        raise ConfigError(
            f"DenseGaussian: the covariance of {max(1, int(lost.sum()))} locations is not positive "
            f"definite, or leaves the range of {whitener.dtype}, once the new images are in it, "
            f"with shrinkage={shrinkage}; fit the model again with more shrinkage."
        )
    return Stored(means.t().float().contiguous(), result, torch.where(fresh, after, count))


def extended_low_rank(
    stored: Stored,
    sums: Moments,
    size: tuple[int, int],
    form: LowRank,
    mean_strength: float = 0.0,
) -> Stored:
    """The same of whiteners ``[H*W,R,C]`` of the low-rank form."""
    means, gain = joined_means(stored.mean, stored.images, sums, mean_strength)
    rows = more_low_rank(stored.whitener, stored.images, gain, sums, size, form)
    return Stored(means.t().float().contiguous(), rows, stored.images + sums.count)


def _covariance(
    whitener: Tensor, known: Tensor, triangle: PackedTriangle, identity: Tensor
) -> Tensor:
    """Covariances ``[n,C,C]`` float64 of packed whiteners; 0 where they are not ``known``."""
    lower = triangle.symmetric(whitener.double()).tril()
    lower = torch.where(known[:, None, None], lower, identity)
    root = torch.linalg.solve_triangular(lower, identity, upper=False)
    return torch.where(known[:, None, None], root @ root.mT, 0)


def _pooled(
    whitener: Tensor, known: Tensor, triangle: PackedTriangle, shrinkage: float
) -> Tensor | None:
    """What the locations that are known have in common, ``[C,C]``, without the shrinkage."""
    places = known.nonzero()[:, 0]
    if not len(places):
        return None
    some = places[:: -(-len(places) // _PLACES)]
    identity = torch.eye(triangle.channels, dtype=torch.float64, device=whitener.device)
    every = torch.ones_like(some, dtype=torch.bool)
    total = _covariance(whitener[some], every, triangle, identity).mean(0)
    return total - shrinkage * identity
