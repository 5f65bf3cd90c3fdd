"""Directions in feature space in which normal images vary alike everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastalign.nn.pooled import deviations_of, pooled_covariance
from fastalign.nn.prior import SHRINKAGE
from fastalign.numeric import whole_number
from fastalign.ops import checks

# Added to the pooled variances, as a share of their mean: directions in which nothing ever varied
# say nothing of how unusual a difference is.
RIDGE = 0.5


@dataclass(frozen=True)
class Whitening:
    """Linear features of unit variance, by the covariance that all locations have in common. Ours.

    With W the covariance of the deviations from each location's mean, pooled over all locations,
    and r the ridge, ``(W + r I)^(-1/2) x`` varies as much in every direction. Of these features a
    fixed rotation keeps ``number`` directions: distances are then those of all in expectation
    (Johnson and Lindenstrauss), whichever directions normal images and defects differ in, which
    those of the largest or the least variance are not.

    Attributes:
        directions: ``[N,C]`` float32, the features as sums over channels.
        floor: ``[N,N]`` float64, the covariance that the ridge alone has in these directions.
        ridge: r, in the units of the channels' variances.
    """

    directions: Tensor
    floor: Tensor
    ridge: float

    @classmethod
    def of_samples(cls, samples: Tensor, valid: Tensor | None, number: int) -> Whitening:
        """The whitening that samples of some locations tell.

        Args:
            samples: ``[M,L,C]``, channels of M images at L locations.
            valid: ``[M,L]`` bool; None: all.
            number: of directions, at most C.

        Raises:
            ValueError: samples of another shape, or not finite.
            ConfigError: a number of directions out of its range.
        """
        checks.floating("Whitening", "samples", samples)
        if samples.dim() != 3:
            raise ValueError(
                f"Whitening: samples have shape {list(samples.shape)}, expected [M, L, C]"
            )
        channels = samples.shape[2]
        number = whole_number("Whitening: number", number, 1, channels, because="directions")
        with torch.no_grad():
            if valid is None:
                valid = torch.ones(samples.shape[:2], dtype=torch.bool, device=samples.device)
            deviations, _, freedom = deviations_of(samples.double(), valid)
            covariance = pooled_covariance(deviations, freedom)
            if not bool(covariance.isfinite().all()):
                raise ValueError(
                    "Whitening: the samples were NaN, infinite or too large to square; check the "
                    "images and the network, or mark what has no value as not valid"
                )
            ridge = max(SHRINKAGE, RIDGE * float(covariance.diagonal().mean()))
            variances, axes = torch.linalg.eigh(covariance)
            # Rounding may leave the least of them below 0.
            scale = (variances.clamp_min(0) + ridge).rsqrt()
            whitening = (axes * scale) @ axes.mT
            if number < channels:
                whitening = rotation(number, channels).to(whitening) @ whitening
            directions = whitening.float()
            floor = ridge * (whitening @ whitening.mT)
        return cls(directions, floor, ridge)


def whitening_again(samples: Tensor, valid: Tensor, floor: Tensor) -> Tensor:
    """What makes whitened features those of a whitening by other images: ``[N,N]`` float32.

    Args:
        samples: ``[M,L,N]``, whitened features of these images; valid: ``[M,L]`` bool.
        floor: of the whitening that they have.
    """
    deviations, _, freedom = deviations_of(samples.double(), valid)
    covariance = pooled_covariance(deviations, freedom) + floor.to(samples.device)
    variances, axes = torch.linalg.eigh(covariance)
    return ((axes * variances.clamp_min(torch.finfo(torch.float32).eps).rsqrt()) @ axes.mT).float()


def rotation(number: int, channels: int) -> Tensor:
    """The first ``number`` rows of a rotation of so many channels, ``[N,C]`` float64: the same on
    every machine and for every seed, and uniform among all rotations."""
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(channels, channels, generator=generator, dtype=torch.float64)
    basis, triangle = torch.linalg.qr(square)
    # Libraries choose the signs as they like.
    return (basis * triangle.diagonal().sign()).mT[:number]
