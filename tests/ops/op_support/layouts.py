"""Memory layouts of a ``[B,C,H,W]`` tensor, all with the same values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def permuted(x: Tensor) -> Tensor:
    """Dense, with the dimensions in an order that no memory format names (H, B, W, C)."""
    return x.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2)


def transposed(x: Tensor) -> Tensor:
    """Dense, columns before rows."""
    return x.mT.contiguous().mT


def sliced(x: Tensor) -> Tensor:
    """Every second element of a larger tensor, at an offset."""
    batch, channels, height, width = x.shape
    larger = x.new_full((batch + 1, channels, height + 2, 2 * width + 1), float("nan"))
    view = larger[1:, :, 1 : height + 1, 1::2]
    return view.copy_(x)


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def sliced_channels_last(x: Tensor) -> Tensor:
    """Some of the channels of a wider channels_last tensor: strides of that order, not dense."""
    wider = torch.cat([x, x], 1).contiguous(memory_format=torch.channels_last)
    return wider[:, : x.shape[1]]


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": Tensor.contiguous,
    "channels_last": channels_last,
    "permuted": permuted,
    "transposed": transposed,
    "sliced": sliced,
    "sliced_channels_last": sliced_channels_last,
}


def strided(x: Tensor) -> Tensor:
    """Any tensor with every second element of a larger one in its last dimension."""
    if x.dim() == 0:
        return x
    larger = x.new_zeros((*x.shape[:-1], 2 * x.shape[-1] + 1))
    return larger[..., 1::2].copy_(x)


def is_channels_last(x: Tensor) -> bool:
    """Dense in channels_last order and not contiguous as well."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
