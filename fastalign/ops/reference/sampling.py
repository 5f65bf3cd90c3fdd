"""Grid sampling from gathers: its gradient by ordered sums, without atomics on any device, and a
form that torch differentiates to any order.

Positions are held to the image as ``torch.nn.functional.grid_sample`` does it, derivatives at the
edges included.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def _border(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Position held between the outer pixel centres, and the derivative of that: 1, outside 0."""
    inside = (position > 0) & (position < size - 1)
    return position.clamp(0, size - 1), inside.to(position.dtype)


def _reflection(position: Tensor, size: int, align_corners: bool) -> tuple[Tensor, Tensor]:
    """Position mirrored at the outer pixel centres or pixel borders, and the derivative."""
    low, span = (0.0, size - 1) if align_corners else (-0.5, size)
    if span == 0:
        return torch.zeros_like(position), torch.zeros_like(position)
    distance = (position - low).abs()
    flips = torch.floor(distance / span)
    rest = distance - flips * span
    odd = torch.remainder(flips, 2) == 1
    mirrored, slope = _border(torch.where(odd, span - rest, rest) + low, size)
    return mirrored, slope * torch.where(odd != (position < low), -1.0, 1.0)


def _source(
    coordinate: Tensor, size: int, padding_mode: str, align_corners: bool
) -> tuple[Tensor, Tensor]:
    """Pixel position of a normalised coordinate after padding, and the derivative of it."""
    scale = (size - 1) / 2 if align_corners else size / 2
    position = coordinate * scale + (size - 1) / 2
    slope = torch.ones_like(position)
    if padding_mode == "border":
        position, slope = _border(position, size)
    elif padding_mode == "reflection":
        position, slope = _reflection(position, size, align_corners)
    else:
        # Beyond two pixels outside nothing is sampled; the clamp keeps the indices in range.
        position = position.clamp(-2, size + 1)
    return position, slope * scale


class Corner(NamedTuple):
    """A pixel that a sample is made of: ``[B,height,width]`` each."""

    row: Tensor
    column: Tensor
    weight: Tensor
    by_column: Tensor  # the weight's derivatives
    by_row: Tensor


def _corners(row: Tensor, column: Tensor, mode: str) -> list[Corner]:
    """The pixels that surround a position, or the nearest one."""
    if mode == "nearest":
        nothing = torch.zeros_like(row)
        return [Corner(row.round(), column.round(), torch.ones_like(row), nothing, nothing)]
    top, left = torch.floor(row.detach()), torch.floor(column.detach())
    down, right = row - top, column - left
    return [
        Corner(top, left, (1 - down) * (1 - right), down - 1, right - 1),
        Corner(top, left + 1, (1 - down) * right, 1 - down, -right),
        Corner(top + 1, left, down * (1 - right), -down, 1 - right),
        Corner(top + 1, left + 1, down * right, down, right),
    ]


class _Pixels:
    """The pixels ``[B,H,W,C]`` of images ``[B,C,H,W]``, taken at corners."""

    def __init__(self, x: Tensor) -> None:
        self.image = torch.arange(x.shape[0], device=x.device).view(-1, 1, 1)
        self.height, self.width = x.shape[2:]
        self.values = x.permute(0, 2, 3, 1)

    def at(self, corner: Corner) -> tuple[Tensor, Tensor]:
        """Rows and columns as indices within the image."""
        # Clamped as integers: a NaN coordinate must not become an index out of range.
        row = corner.row.long().clamp(0, self.height - 1)
        return row, corner.column.long().clamp(0, self.width - 1)

    def inside(self, corner: Corner) -> Tensor:
        """Whether the corner lies in the image."""
        rows = (corner.row >= 0) & (corner.row < self.height)
        return rows & (corner.column >= 0) & (corner.column < self.width)

    def __getitem__(self, place: tuple[Tensor, Tensor]) -> Tensor:
        return self.values[(self.image, *place)]


def sample(x: Tensor, grid: Tensor, mode: str, padding_mode: str, align_corners: bool) -> Tensor:
    """``grid_sample`` of ``x`` ``[B,C,H,W]`` at ``grid`` ``[B,height,width,2]``."""

    def followed(axis: int, size: int) -> Tensor:
        # Linear in the coordinate with the slope that grid_sample takes, at the edges as well.
        given = grid[..., axis]
        position, slope = _source(given.detach(), size, padding_mode, align_corners)
        return position + slope * (given - given.detach())

    pixels = _Pixels(x)
    column, row = followed(0, pixels.width), followed(1, pixels.height)
    result = None
    for corner in _corners(row, column, mode):
        outside = ~pixels.inside(corner).unsqueeze(-1)
        part = pixels[pixels.at(corner)].masked_fill(outside, 0) * corner.weight.unsqueeze(-1)
        result = part if result is None else result + part
    assert result is not None
    return result.permute(0, 3, 1, 2)


def sample_backward(
    grad: Tensor,
    x: Tensor,
    grid: Tensor,
    mode: str,
    padding_mode: str,
    align_corners: bool,
    need_x: bool,
    need_grid: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of ``sum(grad * grid_sample(x, grid))`` to x and to the grid.

    One that is not needed comes back without meaning.
    """
    batch, channels, height, width = x.shape
    column, column_slope = _source(grid[..., 0], width, padding_mode, align_corners)
    row, row_slope = _source(grid[..., 1], height, padding_mode, align_corners)
    upstream = grad.permute(0, 2, 3, 1)
    pixels = _Pixels(x)
    to_x = x.new_zeros((batch * height * width, channels))
    to_column, to_row = torch.zeros_like(column), torch.zeros_like(row)
    for corner in _corners(row, column, mode):
        inside, (y, z) = pixels.inside(corner), pixels.at(corner)
        if need_x:
            share = (upstream * (corner.weight * inside).unsqueeze(-1)).reshape(-1, channels)
            index = ((pixels.image * height + y) * width + z).reshape(-1)
            # Unlike index_add_, index_put_ sorts its indices first and adds in a fixed order.
            to_x.index_put_((index,), share, accumulate=True)
        if need_grid:
            product = (upstream * pixels[y, z]).sum(-1) * inside
            to_column += product * corner.by_column
            to_row += product * corner.by_row
    return (
        to_x.view(batch, height, width, channels).permute(0, 3, 1, 2),
        torch.stack((to_column * column_slope, to_row * row_slope), -1),
    )
