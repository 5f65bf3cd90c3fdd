"""From sums over images to whiteners: packed inverse Cholesky factors of covariances."""

from __future__ import annotations

import torch
from torch import Tensor

from fastalign.errors import ConfigError
from fastalign.nn.moments import Moments, PackedTriangle, runs, runs_native
from fastalign.nn.prior import CovariancePrior
from fastalign.ops import native


def whiten(
    sums: Moments,
    support: Tensor,
    shrinkage: float,
    storage: torch.dtype,
    *,
    prior: CovariancePrior | None = None,
    into: Tensor | None = None,
    keep: bool = False,
    width: int,
) -> Tensor:
    """Packed inverse Cholesky factors ``[H*W,C(C+1)/2]``; 0 where there is no support.

    They take the place of an earlier fit's, or of the sums where these are not kept: twice may be
    more than there is room for.

    Args:
        sums: of the features of H*W locations.
        support: ``[H*W]`` bool.
        shrinkage: added to the variances.
        storage: dtype of the result.
        prior: of the covariances; its shrinkage takes the place of the one above.
        into: whiteners of an earlier fit, to be overwritten.
        keep: leave the sums as they are.
        width: W, for messages.

    Raises:
        ConfigError: a covariance is not positive definite, or a whitener out of the range of
            ``storage``.
    """
    whitener = into
    singular = torch.zeros_like(support)
    if prior is not None:
        shrinkage = prior.shrinkage
    elif shrinkage == 0:
        singular = support & (sums.count <= sums.mean.shape[1])
    pooled = None if prior is None else _packed(prior, sums.outer.device)
    freedom = (sums.count - 1).double()
    if prior is None:
        share = 1 / freedom.clamp_min(1)
    else:
        share = 1 / (freedom.clamp_min(0) + prior.strength)
    if runs_native("whiten_", sums.outer):
        work = _Native(sums.outer, share, support, shrinkage, pooled)
        if whitener is None and not keep and storage == sums.outer.dtype:
            # A look beforehand, since an error leaves the sums as they are.
            _report_singular(singular | work.into(None), sums, shrinkage, width)
            whitener = sums.outer
        elif whitener is None:
            whitener = torch.empty_like(sums.outer, dtype=storage)
        singular |= work.into(whitener)
    else:
        if whitener is None:
            whitener = torch.empty_like(sums.outer, dtype=storage)
        _whiten(sums, share, support, shrinkage, pooled, whitener, singular)
    _report_singular(singular, sums, shrinkage, width)
    pieces = runs(len(whitener), whitener.shape[1], whitener.device)
    if not all(bool(whitener[run].isfinite().all()) for run in pieces):
        raise ConfigError(
            f"DenseGaussian: the whitener leaves the range of {storage} with shrinkage="
            f"{shrinkage}; use more shrinkage, or storage=torch.bfloat16 or torch.float32"
        )
    return whitener


def _packed(prior: CovariancePrior, device: torch.device) -> Tensor:
    """What the prior adds to the sums of a location, packed ``[C(C+1)/2]`` float32."""
    covariance = prior.covariance.to(device)
    triangle = PackedTriangle(len(covariance), device)
    return triangle.pack((prior.strength * covariance)[None])[0].float()


class _Native:
    """The native kernel over sums ``outer [L,C(C+1)/2]``, each location's multiplied with
    ``share [L]``; with what a prior adds to them (``pooled``) a run of locations at a time, so that
    no second copy of the sums is needed."""

    def __init__(
        self,
        outer: Tensor,
        share: Tensor,
        support: Tensor,
        shrinkage: float,
        pooled: Tensor | None,
    ) -> None:
        self._outer, self._share, self._support = outer, share, support
        self._shrinkage, self._pooled = shrinkage, pooled
        self._kernel = native.kernel("whiten_")

    def into(self, whitener: Tensor | None) -> Tensor:
        """Fill ``whitener``, which may be the sums themselves (None: only look); returns the
        locations whose covariance is not positive definite, bool ``[L]``."""
        outer, pooled = self._outer, self._pooled
        lost = torch.empty_like(self._support)
        every = slice(0, len(outer))
        pieces = [every] if pooled is None else runs(len(outer), 2 * outer.shape[1], outer.device)
        for run in pieces:
            sums = outer[run] if pooled is None else outer[run] + pooled
            into = outer.new_empty(0) if whitener is None else whitener[run]
            share, support = self._share[run], self._support[run]
            self._kernel(into, lost[run], sums, share, support, self._shrinkage)
        return lost


def _whiten(
    sums: Moments,
    share: Tensor,
    support: Tensor,
    shrinkage: float,
    pooled: Tensor | None,
    whitener: Tensor,
    singular: Tensor,
) -> None:
    """Fill ``whitener`` and mark what is ``singular``, with torch's own factorization."""
    device, channels = sums.outer.device, sums.mean.shape[1]
    triangle = PackedTriangle(channels, device)
    identity = torch.eye(channels, dtype=torch.float64, device=device)
    # A covariance, its factor, the inverse and a triangle, in float64.
    for run in runs(len(support), 8 * channels**2, device):
        outer = sums.outer[run] if pooled is None else sums.outer[run] + pooled
        covariance = triangle.symmetric(outer.double() * share[run].unsqueeze(-1))
        variances = covariance.diagonal(dim1=1, dim2=2)
        variances += shrinkage
        factor, info = torch.linalg.cholesky_ex(covariance)
        # A pivot below the rounding of the float32 sums says nothing, even a positive one.
        pivots = factor.diagonal(dim1=1, dim2=2).square()
        lost = (pivots <= torch.finfo(torch.float32).eps * variances).any(1) | (info != 0)
        singular[run] |= lost & support[run]
        # No result comes from these; dividing by a zero pivot would only make NaN.
        factor = torch.where(lost[:, None, None], identity, factor)
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
        inverse = torch.where(support[run, None, None], inverse, 0)
        whitener[run] = triangle.pack(inverse)


def _report_singular(singular: Tensor, sums: Moments, shrinkage: float, width: int) -> None:
    if not singular.any():
        return
    where = int(singular.nonzero()[0])
    row, column = divmod(where, width)
    raise ConfigError(
        f"DenseGaussian: the covariance is not positive definite at {int(singular.sum())} of "
        f"{singular.numel()} locations (the first: row {row}, column {column}, "
        f"{int(sums.count[where])} images for {sums.mean.shape[1]} channels) with shrinkage="
        f"{shrinkage}; use more shrinkage (0.01 is the default; it has to stand out from "
        "the variances by more than 1e-7 of them), or more images than channels"
    )


def check_finite(sums: Moments) -> None:
    """Raise :class:`ValueError` where sums are NaN or infinite."""
    diagonal = PackedTriangle(sums.mean.shape[1], sums.outer.device).diagonal
    variances = sums.outer.index_select(1, diagonal)
    finite = sums.mean.isfinite().all(1) & variances.isfinite().all(1)
    if not finite.all():
        raise ValueError(
            f"DenseGaussian: the features were NaN, infinite or too large to square at "
            f"{int((~finite).sum())} of {finite.numel()} locations; check the images and the "
            "network, or mark what has no value as not valid in update(features, valid)"
        )
