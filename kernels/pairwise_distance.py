"""All-pairs distances at every location: Triton kernels.

For image a the mean over its partners b of the length of d = h_a - h_b, and the gradient of a
weighted sum of these means,

    gradient_a = sum over b of (w_a share_a + w_b share_b) d / |d|

where share is one over the number of partners. Every image looks at every other, so both need one
walk over the images and nothing is written but the result.

``colours``  up to four channels: a program holds several images a at some locations, with values,
             sums and gradients in registers, and walks over all images b, whose values come from
             the first cache. N elements read from memory once and written once; B / 8 times as
             much passes the second cache.
``vectors``  more channels: a program holds one image a and walks over all b; B N elements are read,
             mostly from the second cache. Long vectors go block by block and are then read twice,
             for each block of the gradient once more.

The squared distance takes the same walk: the differences are taken first, nothing cancels. Squares
of float32 differences must exist: distances from 1e-18 to 1e18. No atomics: the same call gives the
same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastalign.kernels.common import (
    addressing,
    float64_limit,
    on_device_of,
    sum_parts,
    workload,
)
from fastalign.kernels.pairwise_colours import colours_kernel
from fastalign.kernels.pairwise_parts import share_map
from fastalign.kernels.pairwise_plan import COLOURS, plan
from fastalign.kernels.pairwise_vectors import vectors_kernel
from fastalign.ops.layout import empty_locations, empty_maps, empty_scalar, no_gradient

# How many partners an image has: the same everywhere, counted at each location, or from a map.
SHARE_CONSTANT, SHARE_COUNTED, SHARE_MAP = 0, 1, 2
NO_VALUE, VALUE_MAP, VALUE_SUM = 0, 1, 2


def _launch(
    h: Tensor,
    mask: Tensor | None,
    groups: Tensor | None,
    squared: bool,
    *,
    weight: Tensor | None = None,
    constant: float = 1.0,
    out: Tensor | None = None,
    values: Tensor | None = None,
    value: int = NO_VALUE,
) -> Tensor | None:
    """Run the kernels; for ``VALUE_SUM`` returns the sums to be added."""
    images, channels, height, width = h.shape
    maps = addressing(h, h if out is None else out)
    sizes = plan(workload(h, maps.maps[0]))
    with on_device_of(h):
        shares = None if groups is None else share_map(groups, mask)
        how = SHARE_CONSTANT if mask is None else SHARE_COUNTED
        sums = None
        if value == VALUE_SUM:
            sums = values = h.new_empty((sizes.programs,), dtype=torch.float32)
        tensors = (
            h,
            h if mask is None else mask.view(torch.uint8),
            h if groups is None else groups,
            h if shares is None else shares,
            h if weight is None else weight,
            h if out is None else out,
            h if values is None else values,
        )
        steps = (
            maps.maps[0].strides,
            maps.maps[1].strides,
            (0, 0, 0) if mask is None else mask.stride(),
            0 if groups is None else groups.stride(0),
            (0, 0) if shares is None else (shares.shape[1], int(mask is not None)),
            (0, 0, 0) if weight is None else weight.stride(),
        )
        options = {
            "H_ORDER": maps.maps[0].order,
            "OUT_ORDER": maps.maps[1].order,
            "VECTOR": maps.vector,
            "ROW_VECTOR": maps.row_vector,
            "WIDE": maps.wide,
            "MASKED": mask is not None,
            "GROUPED": groups is not None,
            "SHARE": how if groups is None else SHARE_MAP,
            "WEIGHTED": weight is not None,
            "SQUARED": squared,
            "VALUE": value,
            "GRADIENT": out is not None,
            "BLOCK_X": sizes.block_x,
            "num_warps": sizes.warps,
        }
        share = 1 / (images - 1) if images > 1 else 0.0
        if channels <= COLOURS:
            colours_kernel[(sizes.programs,)](
                *tensors,
                images,
                maps.locations,
                width,
                sizes.chunks,
                share,
                constant,
                *steps,
                CHANNELS=channels,
                BLOCK_A=sizes.block_a,
                **options,
            )
        else:
            vectors_kernel[(sizes.programs,)](
                *tensors,
                images,
                maps.channels,
                maps.locations,
                width,
                share,
                constant,
                *steps,
                CHANNEL_VECTOR=maps.channel_vector,
                ONE_BLOCK=channels <= sizes.block_c,
                BLOCK_C=sizes.block_c,
                **options,
            )
    return sums


def can_run(op: str, *tensors: Tensor) -> str | None:
    """Why these kernels cannot serve ``op``, or None."""
    return float64_limit(*tensors)


def pairwise_distance(
    h: Tensor, mask: Tensor | None, groups: Tensor | None, squared: bool
) -> Tensor:
    """See ``fastalign.ops.pairwise_distance``."""
    values = empty_locations(h)
    if h.numel() == 0:
        return values.zero_()
    _launch(h, mask, groups, squared, values=values, value=VALUE_MAP)
    return values


def pairwise_distance_backward(
    grad: Tensor, h: Tensor, mask: Tensor | None, groups: Tensor | None, squared: bool
) -> Tensor:
    """Gradient of ``sum(grad * pairwise_distance)`` to h."""
    out = empty_maps(h)
    if h.numel() > 0:
        _launch(h, mask, groups, squared, weight=grad, out=out)
    return out


def pairwise_distance_loss(
    h: Tensor, mask: Tensor | None, groups: Tensor | None, squared: bool, need_h: bool
) -> tuple[Tensor, Tensor]:
    """The mean of ``pairwise_distance`` and its gradient to h."""
    loss = empty_scalar(h)
    out = empty_maps(h) if need_h else no_gradient(h)
    if h.numel() == 0:
        return loss.zero_(), out
    images, _, height, width = h.shape
    constant = 1 / (images * height * width)
    sums = _launch(
        h,
        mask,
        groups,
        squared,
        constant=constant,
        out=out if need_h else None,
        value=VALUE_SUM,
    )
    with on_device_of(h):
        sum_parts(sums, constant, loss)
    return loss, out
