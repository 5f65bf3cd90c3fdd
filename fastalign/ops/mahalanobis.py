"""``mahalanobis``: distance to a Gaussian per location."""

from __future__ import annotations

import torch
from torch import Tensor

from fastalign.ops.arguments import Companion, Dtypes, Features, Locations, flag
from fastalign.ops.declaration import Declaration
from fastalign.ops.layout import accumulation_dtype
from fastalign.ops.registration import declare


def _storage(x: torch.dtype) -> Dtypes:
    """What factors may be kept in."""
    return (x,) if x == torch.float64 else (torch.float32, torch.float16, torch.bfloat16)


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
            Companion(
                "whitener",
                gradient=True,
                rows=0,
                shape=lambda _, c, height, width: (height * width, c * (c + 1) // 2),
                meaning="[H*W, C(C+1)/2] of x, the packed lower triangle",
                dtypes=_storage,
                remedy=" (x is {dtype})",
            ),
            flag("squared"),
        ),
        result=Locations(),
        independent=("images", "rows"),
    )
)


def mahalanobis(
    x: Tensor,
    mean: Tensor,
    whitener: Tensor,
    *,
    squared: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Mahalanobis distance of every location to its own Gaussian (as in PaDiM, arXiv 2011.08785).

    Args:
        x: features ``[B,C,H,W]``; float32, float64, float16 or bfloat16, any strides.
        mean: ``[C,H,W]``, float32; float64 if and only if x is float64.
        whitener: inverse Cholesky factors L of the covariances, ``cov^-1 = L^T L``, lower
            triangles packed by rows: ``[H*W, C(C+1)/2]``, entry ``(i, j <= i)`` at
            ``i (i + 1) / 2 + j``, row ``y * W + x`` for location ``(y, x)``. float32, float16 or
            bfloat16; float64 if and only if x is float64.
        squared: the squared distance instead.
        backend: None for the automatic choice, or a name of ``available_backends``.

    Returns:
        The distance ``|L (x - mean)|`` ``[B,H,W]`` in float32, in float64 for float64. Its gradient
        at distance 0 is 0.

    Raises:
        ValueError, TypeError: an argument of the wrong shape, device or dtype.
        BackendError: a backend asked for by name cannot run.
    """
    return _MAHALANOBIS(x, mean, whitener, squared, backend or "auto")
