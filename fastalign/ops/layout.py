"""Memory formats: what an output looks like, given the input that it belongs to.

An output is channels_last where its input is dense in that order and not in the plain one as well,
else contiguous. Fakes, references and native code all follow this rule.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def memory_format(like: Tensor) -> torch.memory_format:
    """The memory format of an output that belongs to ``like`` ``[B,C,H,W]``."""
    if not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype sums are taken in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def empty_maps(like: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """An uninitialised ``[B,C,H,W]`` tensor that belongs to ``like``; ``size`` replaces H and W."""
    shape = like.shape if size is None else (like.shape[0], like.shape[1], *size)
    return torch.empty(
        shape, dtype=like.dtype, device=like.device, memory_format=memory_format(like)
    )


def empty_locations(like: Tensor) -> Tensor:
    """An uninitialised ``[B,H,W]`` tensor in the accumulation dtype of ``like`` ``[B,C,H,W]``."""
    batch, _, height, width = like.shape
    return like.new_empty((batch, height, width), dtype=accumulation_dtype(like.dtype))


def empty_scalar(like: Tensor) -> Tensor:
    """An uninitialised 0-dimensional tensor in the accumulation dtype of ``like``."""
    return like.new_empty((), dtype=accumulation_dtype(like.dtype))


def empty_gradient(value: Tensor) -> Tensor:
    """An uninitialised gradient of ``value``: a map's in its memory format, others contiguous."""
    return empty_maps(value) if value.dim() == 4 else value.new_empty(value.shape)


def no_gradient(like: Tensor) -> Tensor:
    """The empty tensor that stands for a gradient nobody asked for."""
    return like.new_empty((0,))


def as_gradient(value: Tensor, like: Tensor) -> Tensor:
    """``value`` in the dtype and memory format of ``like`` ``[B,C,H,W]``; never ``like`` itself."""
    wanted = memory_format(like)
    result = value.to(like.dtype).contiguous(memory_format=wanted)
    # contiguous() leaves any stride to a dimension of one element, and every one to an empty
    # tensor, but compiled code reads by the strides of the fake.
    usual = torch.empty(value.shape, device="meta", memory_format=wanted).stride()
    return result if result.stride() == usual else result.clone(memory_format=wanted)
