"""What the locations of a map have in common, as a prior of the covariance of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastalign.errors import ConfigError
from fastalign.nn.pooled import deviations_of, pooled_covariance
from fastalign.numeric import LARGEST_PRIOR, LARGEST_SHRINKAGE, real_number
from fastalign.ops import checks

# Candidates of the strength, in photographs.
STRENGTHS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
# Where nothing can be held out, two photographs: what the candidates' likelihood found on sets of
# 20 to 260 photographs lies around it.
USUAL = 20.0
# Added to the variances: PaDiM's number without a prior.
SHRINKAGE = 0.01
# With one a share of the pooled mean variance, and no less. A smaller share lets the likelihood
# trust the prior more than defects in quiet places bear (docs/model.md).
FLOOR = 0.15
_FOLDS = 5
# Of the likelihoods: locations at most, channels for which so many are affordable, and numbers held
# at once.
_PLACES, _CHANNELS, _ENTRIES = 32, 200, 1 << 21


@dataclass(frozen=True)
class CovariancePrior:
    """The pooled covariance of all locations, and for how many photographs it counts. Ours.

    With it the covariance of a location with n photographs and the sum S of outer deviations is the
    mean of an inverse Wishart posterior, and a floor of the variances::

        (strength * covariance + S) / (strength + n - 1) + shrinkage * I

    A location of few photographs leans on what the others show of how features vary together, and
    one of many on its own.

    Attributes:
        covariance: ``[C,C]`` float64.
        strength: in photographs, above 0.
        shrinkage: added to the variances.
        likelihood: of each candidate strength, where it was learned: the mean of -2 log density per
            feature of photographs that were held out; the smallest is best.

    Raises:
        ValueError: the covariance is not square or not finite.
        ConfigError: a number out of its range.
    """

    covariance: Tensor
    strength: float
    shrinkage: float
    likelihood: Mapping[float, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        covariance = self.covariance
        if covariance.dim() != 2 or covariance.shape[0] != covariance.shape[1]:
            raise ValueError(
                f"CovariancePrior: covariance has shape {list(covariance.shape)}, expected [C, C]"
            )
        if not bool(covariance.isfinite().all()):
            raise ValueError("CovariancePrior: the covariance has values that are NaN or infinite")
        real_number(
            "CovariancePrior: strength", self.strength, 0, LARGEST_PRIOR, because="photographs"
        )
        if self.strength == 0:
            raise ConfigError("CovariancePrior: strength 0; leave the prior out instead")
        real_number("CovariancePrior: shrinkage", self.shrinkage, 0, LARGEST_SHRINKAGE)

    @classmethod
    def of_samples(
        cls,
        samples: Tensor,
        valid: Tensor | None = None,
        *,
        strength: float | None = None,
        shrinkage: float | None = None,
        floor: Tensor | None = None,
    ) -> CovariancePrior | None:
        """The prior that samples of some locations tell; None where they show no variation.

        Args:
            samples: ``[N,L,C]``, features of N photographs at L locations.
            valid: ``[N,L]`` bool; None: all.
            strength: None: of the candidates the one under which photographs are likeliest that
                were held out, a fifth of them at a time; with fewer than three photographs
                ``USUAL``.
            shrinkage: None: 0.15 of the pooled mean variance, at least 0.01; with ``floor`` 0.
            floor: ``[C,C]``, added to the pooled covariance; with it there is a prior in any case.

        Raises:
            ValueError: samples of another shape, or on meta.
            ConfigError: a number out of its range.
        """
        checks.floating("CovariancePrior", "samples", samples)
        if samples.dim() != 3:
            raise ValueError(
                f"CovariancePrior: samples have shape {list(samples.shape)}, expected [N, L, C]"
            )
        if samples.is_meta:
            raise ValueError("CovariancePrior: samples are on meta, where they have no values")
        if valid is None:
            valid = torch.ones(samples.shape[:2], dtype=torch.bool, device=samples.device)
        with torch.no_grad():
            values = samples.double()
            deviations, _, freedom = deviations_of(values, valid)
            covariance = _pooled(deviations, freedom, floor)
            variance = float(covariance.diagonal().mean())
            if not 0 < variance < math.inf:
                return None
            if shrinkage is None and floor is not None:
                shrinkage = 0.0
            elif shrinkage is None:
                shrinkage = min(max(SHRINKAGE, FLOOR * variance), LARGEST_SHRINKAGE)
            likelihood: dict[float, float] = {}
            if strength is None:
                likelihood = _likelihoods(values, valid, shrinkage, floor)
                strength = min(likelihood, key=likelihood.__getitem__, default=USUAL)
        return cls(covariance, strength, shrinkage, likelihood)

    def to_json(self) -> dict[str, Any]:
        """Strength, shrinkage and likelihoods as plain data."""
        return {
            "strength": self.strength,
            "shrinkage": self.shrinkage,
            "likelihood": [[key, value] for key, value in self.likelihood.items()],
        }


def _pooled(deviations: Tensor, freedom: Tensor, floor: Tensor | None) -> Tensor:
    covariance = pooled_covariance(deviations, freedom)
    return covariance if floor is None else covariance + floor.to(covariance)


def _likelihoods(
    values: Tensor, valid: Tensor, shrinkage: float, floor: Tensor | None
) -> dict[float, float]:
    """Mean of -2 log density per feature of held-out photographs, for each candidate, less what is
    the same for all; empty where none can be held out."""
    number, places, channels = values.shape
    if number < 3:
        return {}
    folds = min(_FOLDS, number)
    fold_of = torch.arange(number, device=values.device) % folds
    most = int(_PLACES * min(1.0, (_CHANNELS / channels) ** 3))
    chosen = torch.arange(0, places, math.ceil(places / max(4, most)), device=values.device)
    total = dict.fromkeys(STRENGTHS, 0.0)
    features = 0
    for fold in range(folds):
        held_out = fold_of == fold
        deviations, mean, freedom = deviations_of(values[~held_out], valid[~held_out])
        covariance = _pooled(deviations, freedom, floor)
        judged = valid[held_out] & (freedom > 0)
        others = torch.where(judged.unsqueeze(-1), values[held_out] - mean, 0)
        for run in chosen.split(max(1, _ENTRIES // channels**2)):
            # In float32: with the shrinkage they are far from singular.
            found = _of_places(
                covariance.float(),
                deviations[:, run].float(),
                freedom[run].float(),
                others[:, run].float(),
                judged[:, run],
                shrinkage,
            )
            for strength, value in found.items():
                total[strength] += value
            features += channels * int(judged[:, run].sum())
    return {strength: value / features for strength, value in total.items()} if features else {}


def _of_places(
    covariance: Tensor,
    deviations: Tensor,
    freedom: Tensor,
    others: Tensor,
    judged: Tensor,
    shrinkage: float,
) -> dict[float, float]:
    """The sum of -2 log density of ``others [M,L,C]``, where ``judged [M,L]``, for each candidate;
    infinite where a covariance cannot be inverted."""
    by_place = deviations.transpose(0, 1)
    scatter = by_place.mT @ by_place
    times, columns = judged.sum(0), others.permute(1, 2, 0)
    found = {}
    for strength in STRENGTHS:
        own = (strength * covariance + scatter) / (strength + freedom).view(-1, 1, 1)
        own.diagonal(dim1=1, dim2=2).add_(shrinkage)
        factor, failed = torch.linalg.cholesky_ex(own)
        whitened = torch.linalg.solve_triangular(factor, columns, upper=False)
        logarithms = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
        value = float(whitened.square().sum() + (times * logarithms).sum())
        found[strength] = math.inf if bool(failed.any()) or math.isnan(value) else value
    return found
