"""``mahalanobis``: distance to a Gaussian per location."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastalign.ops import checks
from fastalign.ops.arguments import Companion, Dtypes, Features, Locations, Twin, flag
from fastalign.ops.declaration import Declaration
from fastalign.ops.layout import accumulation_dtype
from fastalign.ops.registration import declare


def _storage(x: torch.dtype) -> Dtypes:
    """What factors may be kept in."""
    return (x,) if x == torch.float64 else (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class _Whitener(Companion):
    """A packed factor, two-dimensional; what has three dimensions is held against ``low_rank``."""

    low_rank: Companion = Companion("whitener")

    def check(self, op: str, value: Tensor | None, of: str, first: Tensor) -> None:
        if isinstance(value, Tensor) and value.dim() == 3:
            self.low_rank.check(op, value, of, first)
        else:
            Companion.check(self, op, value, of, first)


@dataclass(frozen=True)
class _Coarse(Twin):
    """A map of the same channels that can be upsampled."""

    def check(self, op: str, value: Tensor | None, of: str, first: Tensor) -> None:
        super().check(op, value, of, first)
        if value is not None:
            checks.not_empty(op, self.name, value)


_MAHALANOBIS = declare(
    Declaration(
        "mahalanobis",
        (
            Features("x"),
            Companion(
                "mean",
                gradient=True,
                rows=1,
                shape=lambda batch, *size: size,
                meaning="[C, H, W] of x",
                dtypes=lambda x: (accumulation_dtype(x),),
                remedy=" (x is {dtype})",
            ),
            _Whitener(
                "whitener",
                gradient=True,
                rows=0,
                shape=lambda _, c, height, width: (height * width, c * (c + 1) // 2),
                meaning="[H*W, C(C+1)/2] of x, the packed lower triangle; or [H*W, R, C]",
                dtypes=_storage,
                remedy=" (x is {dtype})",
                low_rank=Companion(
                    "whitener",
                    shape=lambda _, c, height, width: (height * width, "R", c),
                    meaning="[H*W, R, C] of x, the R rows of the low-rank form",
                    dtypes=_storage,
                    remedy=" (x is {dtype})",
                ),
            ),
            _Coarse(
                "coarse",
                "Tensor?",
                "None",
                rows=None,
                shape=lambda batch, c, *_: (batch, c, "h", "w"),
                meaning="[B, C, h, w] with the B and C of x",
                remedy=" (the dtype of x)",
                whole=("rows",),
            ),
            Companion(
                "scale",
                "Tensor?",
                "None",
                gradient=True,
                rows=0,
                shape=lambda batch, c, *size: size,
                meaning="[H, W] of x",
                dtypes=lambda x: (accumulation_dtype(x),),
                remedy=" (x is {dtype})",
            ),
            flag("squared"),
        ),
        result=Locations(),
        inference=("coarse", "scale"),
        independent=("images", "rows"),
    )
)


def mahalanobis(
    x: Tensor,
    mean: Tensor,
    whitener: Tensor,
    coarse: Tensor | None = None,
    scale: Tensor | None = None,
    *,
    squared: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Mahalanobis distance of every location to its own Gaussian (as in PaDiM, arXiv 2011.08785).

    The low-rank form serves covariances ``c I`` plus a matrix of rank R: with eigenvalues ``e_j``
    and eigenvectors ``u_j`` of the rest, ``cov^-1/2 = c^-1/2 (I - V^T V)`` for the rows
    ``v_j = u_j sqrt(1 - sqrt(c / e_j))``. The factor ``c^-1/2`` is left to the caller. R numbers
    for each channel in place of (C + 1) / 2, and no cancellation: the vector is formed, then
    squared [ours].

    Args:
        x: features ``[B,C,H,W]``; float32, float64, float16 or bfloat16, any strides.
        mean: ``[C,H,W]``, float32; float64 if and only if x is float64.
        whitener: float32, float16 or bfloat16; float64 if and only if x is float64. Row
            ``y * W + x`` belongs to location ``(y, x)``. Two forms: inverse Cholesky factors L of
            the covariances, ``cov^-1 = L^T L``, lower triangles packed by rows:
            ``[H*W, C(C+1)/2]``, entry ``(i, j <= i)`` at ``i (i + 1) / 2 + j``; or the rows V of
            the low-rank form: ``[H*W, R, C]``, any R, 0 included: the distance to the mean.
        coarse: more features of the same channels on a grid of their own, ``[B,C,h,w]`` in x's
            dtype: they are upsampled to that of x, bilinearly as ``F.interpolate`` does it without
            ``align_corners``, and added to it, without either being made.
        scale: what the values of a location are multiplied with, ``[H,W]`` in the mean's dtype;
            where it is 0 they are 0, whatever x holds there.
        squared: the squared distance instead.
        backend: None for the automatic choice, or a name of ``available_backends``.

    Returns:
        The distance ``[B,H,W]`` in float32, in float64 for float64: ``|L d|`` with
        ``d = x - mean``, or ``|d - V^T (V d)|``. Its gradient at distance 0 is 0. With ``coarse``
        or ``scale``, which are made for inference, the gradient is that of the sum and of the
        product, each in memory.

    Raises:
        ValueError, TypeError: an argument of the wrong shape, device or dtype.
        BackendError: a backend asked for by name cannot run.
    """
    return _MAHALANOBIS(x, mean, whitener, coarse, scale, squared, backend or "auto")
