"""Maps of distances in the frame of the images, in plain PyTorch: warp, smoothing, division."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fastalign.ops import affine
from fastalign.ops.layout import accumulation_dtype
from fastalign.ops.reference.warp_affine import (
    warp_affine,
    warp_affine_derivable,
    warp_affine_plain,
)

Warp = Callable[[Tensor, Tensor, Sequence[int], str, str, bool], Tensor]

# A share below this counts as this.
LEAST_SHARE = 1e-6


def _reflected(count: int, radius: int) -> list[int]:
    """Which of ``count`` pixels stand at the places from ``-radius`` to ``count + radius - 1``."""
    period = max(1, 2 * (count - 1))
    places = [place % period for place in range(-radius, count + radius)]
    return [0 if count == 1 else min(place, period - place) for place in places]


def _padded(maps: Tensor, axis: int, radius: int) -> Tensor:
    places = torch.tensor(_reflected(maps.shape[axis], radius), device=maps.device)
    return maps.index_select(axis, places)


def _by_windows(maps: Tensor, taps: Tensor) -> Tensor:
    """Maps ``[B,2,H,W]`` smoothed along both axes. No convolution of torch's, which a GPU rounds to
    tf32."""
    for axis in (3, 2):
        maps = _padded(maps, axis, len(taps) // 2).unfold(axis, len(taps), 1) @ taps
    return maps


def _by_convolution(maps: Tensor, taps: Tensor) -> Tensor:
    """The same in ops that every runtime has."""
    flat = maps.flatten(0, 1).unsqueeze(1)
    for axis in (3, 2):
        weight = taps.view(1, 1, 1, -1) if axis == 3 else taps.view(1, 1, -1, 1)
        flat = F.conv2d(_padded(flat, axis, len(taps) // 2), weight)
    return flat.squeeze(1).unflatten(0, (-1, 2))


def _moved_back(
    distance: Tensor,
    theta: Tensor,
    evidence: Tensor,
    taps: Tensor,
    size: Sequence[int],
    warp: Warp,
    smooth: Callable[[Tensor, Tensor], Tensor] = _by_windows,
) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(distance.dtype)
    weight = evidence.to(dtype)
    both = torch.stack([distance[:, 0].to(dtype) * weight, weight], 1)
    warped = warp(both, affine.invert(theta), tuple(size), "bilinear", "zeros", False)
    value, share = smooth(warped, taps).unbind(1)
    return value / share.clamp_min(LEAST_SHARE), share


def anomaly_map(
    distance: Tensor, theta: Tensor, evidence: Tensor, taps: Tensor, size: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """See ``fastalign.ops.anomaly_map``."""
    if len(distance) == 0:
        empty = distance.new_empty((0, *size), dtype=accumulation_dtype(distance.dtype))
        return empty, torch.empty_like(empty)
    value, share = _moved_back(distance, theta, evidence, taps, size, warp_affine)
    # contiguous() leaves any stride to a batch of one.
    return value, share.new_empty(share.shape).copy_(share)


def anomaly_map_plain(
    distance: Tensor, theta: Tensor, evidence: Tensor, taps: Tensor, size: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """``anomaly_map`` in ops that torch itself exports."""
    given = distance, theta, evidence, taps, size
    return _moved_back(*given, warp_affine_plain, _by_convolution)


def anomaly_map_derivable(
    distance: Tensor, theta: Tensor, evidence: Tensor, taps: Tensor, size: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """``anomaly_map`` in ops that torch itself differentiates, to any order."""
    return _moved_back(distance, theta, evidence, taps, size, warp_affine_derivable)
