"""Gaussian smoothing along both axes as two small matrix products, and interpolation by rows."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from fastalign.nn.constants import constant
from fastalign.nn.state import captured, in_own_state
from fastalign.numeric import LARGEST_SIGMA
from fastalign.ops import checks

_BORDERS = ("reflect", "replicate")
# Kernels are cut off at this many standard deviations, as scipy does by default.
_TRUNCATE = 4.0


@constant
def _taps(sigma: float, device: torch.device) -> Tensor:
    radius = int(_TRUNCATE * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma).square())
    return (kernel / kernel.sum()).float().to(device)


def gaussian_taps(sigma: float, *, device: torch.device | str = "cpu") -> Tensor:
    """Weights ``[K]`` of a value and its neighbours up to 4 sigma on each side, float32: a row of
    :func:`gaussian_matrix` far from the borders.

    Arguments:
        sigma: standard deviation in values, 0 to 10,000; 0 gives a single 1.
        device: where to put them.
    """
    if sigma == 0:
        return torch.ones(1, dtype=torch.float32, device=device)
    return _taps(float(sigma), torch.device(device))


@constant
def _weights(size: int, sigma: float, border: str, device: torch.device) -> Tensor:
    kernel = _taps(sigma, torch.device("cpu"))
    offsets = torch.arange(len(kernel)) - len(kernel) // 2
    source = torch.arange(size)[:, None] + offsets
    if border == "replicate":
        source = source.clamp(0, size - 1)
    else:
        # A reflection that leaves out the edge pixel itself, however often the radius needs it.
        period = max(1, 2 * (size - 1))
        source = source.remainder(period)
        source = torch.minimum(source, period - source) if size > 1 else source * 0
    matrix = torch.zeros(size, size).scatter_add_(1, source, kernel.expand(size, -1))
    return matrix.to(device)


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
    if size < 1 or not 0 <= sigma <= LARGEST_SIGMA or border not in _BORDERS:
        raise ValueError(
            f"gaussian_matrix: size={size}, sigma={sigma}, border={border!r}; expected a size of "
            f"at least 1, a sigma from 0 to {LARGEST_SIGMA:g} and one of {', '.join(_BORDERS)}"
        )
    if sigma == 0:
        return torch.eye(size, dtype=torch.float32, device=device)
    return _weights(size, float(sigma), border, torch.device("cpu" if device is None else device))


@in_own_state
def smooth(maps: Tensor, sigma: float, *, border: str = "reflect") -> Tensor:
    """Gaussian smoothing of maps ``[..., H, W]`` over their last two axes, in their own dtype.

    One matrix product per axis; exact at the borders as :func:`gaussian_matrix` says.

    Raises:
        TypeError: maps of whole numbers, which cannot hold the weights, or not dense.
    """
    checks.floating("smooth", "maps", maps)
    if sigma == 0:
        return maps
    rows = gaussian_matrix(maps.shape[-2], sigma, border=border, device=maps.device)
    columns = gaussian_matrix(maps.shape[-1], sigma, border=border, device=maps.device)
    return rows.to(maps.dtype) @ maps @ columns.to(maps.dtype).mT


@constant
def _upsampling(given: int, size: int, sigma: float, device: torch.device) -> Tensor:
    unit = torch.eye(given, dtype=torch.float64)[None]
    rows = F.interpolate(unit, size, mode="linear", align_corners=False)[0].mT
    return (gaussian_matrix(size, sigma).double() @ rows).float().to(device)


@in_own_state
def upsampled_smooth(maps: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """``smooth(F.interpolate(maps[:, None], size, mode="bilinear")[:, 0], sigma)`` of maps
    ``[B,h,w]``, to rounding: both are linear along each axis, so one product for each does it, with
    matrices as narrow as the given maps."""
    rows = _upsampling(maps.shape[1], size[0], float(sigma), maps.device)
    columns = _upsampling(maps.shape[2], size[1], float(sigma), maps.device)
    return rows @ (maps @ columns.mT)


def interpolated(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """``F.interpolate(maps, size, mode="bilinear", align_corners=False)`` of maps ``[B,C,h,w]``, to
    rounding; in channels_last: on a GPU torch's kernel for the other layout has one thread for all
    channels and images of a place, and on a CPU it goes there and back by a slow way."""
    if maps.is_cuda or not captured():
        maps = maps.contiguous(memory_format=torch.channels_last)
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def interpolated_rows(maps: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """The rows ``rows`` of ``F.interpolate(maps, size, mode="bilinear", align_corners=False)``, to
    rounding, without the others.

    Arguments:
        maps: ``[B,C,h,w]``.
        size: height and width of the whole result.
        rows: consecutive ones of the height.
    """
    start, stop, _ = rows.indices(size[0])
    key = maps.shape[2], size[0], start, stop
    first, last = _span(*key)
    above, below = _neighbours(*key, maps.device)
    share = _shares(*key, maps.device).to(maps.dtype)
    wide = interpolated(maps[:, :, first:last], (last - first, size[1]))
    return torch.lerp(wide[:, :, above], wide[:, :, below], share)


def _sources(given: int, height: int, start: int, stop: int) -> Tensor:
    """Where the rows from ``start`` to ``stop`` of ``height`` lie among ``given`` rows."""
    wanted = torch.arange(start, stop, dtype=torch.float32)
    return ((wanted + 0.5) * (given / height) - 0.5).clamp_min(0)


@lru_cache(maxsize=64)
def _span(given: int, height: int, start: int, stop: int) -> tuple[int, int]:
    """The first of the given rows that are needed, and the end of them."""
    above = _sources(given, height, start, stop).long().clamp_max(given - 1).tolist()
    return above[0], min(above[-1] + 1, given - 1) + 1


@constant
def _neighbours(given: int, height: int, start: int, stop: int, device: torch.device) -> Tensor:
    """The given rows above and below each wanted one, counted from the first needed: ``[2,N]``."""
    above = _sources(given, height, start, stop).long().clamp_max(given - 1)
    below = (above + 1).clamp_max(given - 1)
    return (torch.stack([above, below]) - _span(given, height, start, stop)[0]).to(device)


@constant
def _shares(given: int, height: int, start: int, stop: int, device: torch.device) -> Tensor:
    """How far each wanted row lies below the one above it: ``[N,1]``."""
    source = _sources(given, height, start, stop)
    return (source - source.long().clamp_max(given - 1))[:, None].to(device)
