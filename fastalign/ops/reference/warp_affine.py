"""Affine warping in plain PyTorch: ``affine_grid`` and ``grid_sample``, and their gradients.

Coordinates are computed in theta's dtype or a wider one, never in a 16-bit dtype.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from fastalign.ops import affine
from fastalign.ops.layout import accumulation_dtype, as_gradient, empty_maps, no_gradient
from fastalign.ops.reference.sampling import sample, sample_backward

Sampler = Callable[[Tensor, Tensor, str, str, bool], Tensor]

_MODES = {"bilinear": 0, "nearest": 1}
_PADDING_MODES = {"zeros": 0, "border": 1, "reflection": 2}


def _working_dtype(x: Tensor, theta: Tensor) -> torch.dtype:
    return torch.promote_types(accumulation_dtype(x.dtype), theta.dtype)


def _grid(x: Tensor, theta: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Sampling coordinates ``[B,height,width,2]`` in the working dtype."""
    return _affine_grid(theta.to(_working_dtype(x, theta)), size, align_corners)


def _affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """torch's grid without its warning that align_corners centres an axis of one pixel."""
    shape = [theta.shape[0], 1, *size]
    if not (align_corners and 1 in size):
        return F.affine_grid(theta, shape, align_corners)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return F.affine_grid(theta, shape, align_corners)


def warp_affine(
    x: Tensor,
    theta: Tensor,
    size: Sequence[int],
    mode: str,
    padding_mode: str,
    align_corners: bool,
) -> Tensor:
    """See ``fastalign.ops.warp_affine``."""
    if x.shape[0] == 0 or x.shape[1] == 0:
        return empty_maps(x, size)
    grid = _grid(x, theta, size, align_corners)
    sampled = F.grid_sample(x.to(grid.dtype), grid, mode, padding_mode, align_corners)
    return as_gradient(sampled, x)


def _base(size: Sequence[int], like: Tensor, align_corners: bool) -> Tensor:
    """Homogeneous output coordinates ``[height*width,3]``: what ``affine_grid`` multiplies."""
    identity = torch.eye(2, 3, dtype=like.dtype, device=like.device)[None]
    grid = _affine_grid(identity, size, align_corners).view(-1, 2)
    return F.pad(grid, (0, 1), value=1.0)


def warp_affine_backward(
    grad: Tensor,
    x: Tensor,
    theta: Tensor,
    mode: str,
    padding_mode: str,
    align_corners: bool,
    need_x: bool,
    need_theta: bool,
    deterministic: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of ``sum(grad * warp_affine)`` to x and theta.

    With ``deterministic`` no sum depends on the order in which threads arrive.
    """
    size = grad.shape[2:]
    if grad.shape[0] == 0 or grad.shape[1] == 0:
        to_x = empty_maps(x).zero_() if need_x else no_gradient(x)
        return to_x, theta.new_zeros(theta.shape) if need_theta else no_gradient(theta)
    grid = _grid(x, theta, size, align_corners)
    values, upstream = x.to(grid.dtype), grad.to(grid.dtype)
    arguments = upstream, values, grid, mode, padding_mode, align_corners, need_x, need_theta
    if deterministic and x.device.type != "cpu":
        # torch's own backward adds with atomics there and refuses to run in deterministic mode.
        to_x, to_grid = sample_backward(*arguments)
    else:
        to_x, to_grid = _sample_backward(*arguments)
    to_theta = no_gradient(theta)
    if need_theta:
        base = _base(size, grid, align_corners)
        to_theta = (to_grid.reshape(len(theta), -1, 2).mT @ base).to(theta.dtype)
    return as_gradient(to_x, x) if need_x else no_gradient(x), to_theta


def _sample_backward(
    grad: Tensor,
    x: Tensor,
    grid: Tensor,
    mode: str,
    padding_mode: str,
    align_corners: bool,
    need_x: bool,
    need_grid: bool,
) -> tuple[Tensor, Tensor]:
    """The arguments of ``sample_backward``, given to torch's own."""
    return torch.ops.aten.grid_sampler_2d_backward(
        grad,
        x,
        grid,
        _MODES[mode],
        _PADDING_MODES[padding_mode],
        align_corners,
        [need_x, need_grid],
    )


def warp_affine_plain(
    x: Tensor,
    theta: Tensor,
    size: Sequence[int],
    mode: str,
    padding_mode: str,
    align_corners: bool,
    sampler: Sampler = F.grid_sample,
) -> Tensor:
    """``warp_affine`` in ops that torch itself differentiates and exports."""
    theta = theta.to(_working_dtype(x, theta))
    row = affine.pixel_centres(size[0], theta, align_corners)[:, None]
    column = affine.pixel_centres(size[1], theta, align_corners)

    def along(axis: int) -> Tensor:
        by_x, by_y, shift = (theta[:, axis, k, None, None] for k in range(3))
        return by_x * column + by_y * row + shift

    grid = torch.stack([along(0), along(1)], -1)
    return sampler(x.to(theta.dtype), grid, mode, padding_mode, align_corners).to(x.dtype)


# By gathers: torch's ``grid_sample`` has one derivative, and that in reverse mode.
warp_affine_derivable = partial(warp_affine_plain, sampler=sample)
