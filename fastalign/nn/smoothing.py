"""Gaussian smoothing along both axes as two small matrix products, and interpolation by rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fastalign.nn.constants import constant

_BORDERS = ("reflect", "replicate")
# Kernels are cut off at this many standard deviations, as scipy does by default.
_TRUNCATE = 4.0


@constant
def _weights(size: int, sigma: float, border: str) -> Tensor:
    radius = int(_TRUNCATE * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma).square())
    kernel = (kernel / kernel.sum()).float()
    source = torch.arange(size)[:, None] + offsets
    if border == "replicate":
        source = source.clamp(0, size - 1)
    else:
        # A reflection that leaves out the edge pixel itself, however often the radius needs it.
        period = max(1, 2 * (size - 1))
        source = source.remainder(period)
        source = torch.minimum(source, period - source) if size > 1 else source * 0
    matrix = torch.zeros(size, size)
    return matrix.scatter_add_(1, source, kernel.expand(size, -1))


def gaussian_matrix(
    size: int, sigma: float, *, border: str = "reflect", device: torch.device | str | None = None
) -> Tensor:
    """Matrix ``[size, size]`` that smooths a column of ``size`` values, float32.

    Each row sums to 1. The kernel is cut off at 4 sigma.

    Arguments:
        size: number of values.
        sigma: standard deviation in values; 0 gives the identity.
        border: ``"reflect"`` (the edge value is not repeated) or ``"replicate"``.
        device: where to put it.

    Raises:
        ValueError: an argument out of range.
    """
    if size < 1 or not (math.isfinite(sigma) and sigma >= 0) or border not in _BORDERS:
        raise ValueError(
            f"gaussian_matrix: size={size}, sigma={sigma}, border={border!r}; expected a size of "
            f"at least 1, a sigma of at least 0 and one of {', '.join(_BORDERS)}"
        )
    if sigma == 0:
        return torch.eye(size, device=device)
    matrix = _weights(size, float(sigma), border)
    return matrix.to(device) if device is not None else matrix


def smooth(maps: Tensor, sigma: float, *, border: str = "reflect") -> Tensor:
    """Gaussian smoothing of maps ``[..., H, W]`` over their last two axes.

    One matrix product per axis; exact at the borders as :func:`gaussian_matrix` says.
    """
    if sigma == 0:
        return maps
    rows = gaussian_matrix(maps.shape[-2], sigma, border=border, device=maps.device)
    columns = gaussian_matrix(maps.shape[-1], sigma, border=border, device=maps.device)
    return rows.to(maps.dtype) @ maps @ columns.to(maps.dtype).mT


def interpolated_rows(maps: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """The rows ``rows`` of ``F.interpolate(maps, size, mode="bilinear", align_corners=False)``, to
    rounding, without the others.

    Arguments:
        maps: ``[B,C,h,w]``.
        size: height and width of the whole result.
        rows: consecutive ones of the height.
    """
    given = maps.shape[2]
    wanted = torch.arange(*rows.indices(size[0]), device=maps.device, dtype=torch.float32)
    source = ((wanted + 0.5) * (given / size[0]) - 0.5).clamp_min(0)
    above = source.long().clamp_max(given - 1)
    below = (above + 1).clamp_max(given - 1)
    share = (source - above).to(maps.dtype)[:, None]
    first, last = int(above[0]), int(below[-1]) + 1
    wide = F.interpolate(
        maps[:, :, first:last], (last - first, size[1]), mode="bilinear", align_corners=False
    )
    return torch.lerp(wide[:, :, above - first], wide[:, :, below - first], share)
