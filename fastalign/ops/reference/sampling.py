"""The gradient of grid sampling from gathers and ordered sums: no atomics on any device."""

from __future__ import annotations

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
    if mode == "nearest":
        top, left = torch.round(row), torch.round(column)
        corners = [(top, left, torch.ones_like(row), torch.zeros_like(row), torch.zeros_like(row))]
    else:
        top, left = torch.floor(row), torch.floor(column)
        down, right = row - top, column - left
        # Row, column, weight, and the weight's derivatives by column and by row.
        corners = [
            (top, left, (1 - down) * (1 - right), down - 1, right - 1),
            (top, left + 1, (1 - down) * right, 1 - down, -right),
            (top + 1, left, down * (1 - right), -down, 1 - right),
            (top + 1, left + 1, down * right, down, right),
        ]
    image = torch.arange(batch, device=x.device).view(-1, 1, 1)
    upstream = grad.permute(0, 2, 3, 1)
    pixels = x.permute(0, 2, 3, 1)
    to_x = x.new_zeros((batch * height * width, channels))
    to_column, to_row = torch.zeros_like(column), torch.zeros_like(row)
    for at_row, at_column, weight, by_column, by_row in corners:
        inside = (at_row >= 0) & (at_row < height) & (at_column >= 0) & (at_column < width)
        # Clamped as integers: a NaN coordinate must not become an index out of range.
        y = at_row.long().clamp(0, height - 1)
        z = at_column.long().clamp(0, width - 1)
        if need_x:
            share = (upstream * (weight * inside).unsqueeze(-1)).reshape(-1, channels)
            index = ((image * height + y) * width + z).reshape(-1)
            # Unlike index_add_, index_put_ sorts its indices first and adds in a fixed order.
            to_x.index_put_((index,), share, accumulate=True)
        if need_grid:
            product = (upstream * pixels[image, y, z]).sum(-1) * inside
            to_column += product * by_column
            to_row += product * by_row
    return (
        to_x.view(batch, height, width, channels).permute(0, 3, 1, 2),
        torch.stack((to_column * column_slope, to_row * row_slope), -1),
    )
