"""Tensors for wrong calls: right by default, and wrong in the one thing that is said."""

from __future__ import annotations

import torch
from torch import Tensor

B, C, H, W = 3, 4, 5, 6


def features(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape or (B, C, H, W), dtype=dtype)


def groups(size: int = B, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.zeros(size, dtype=dtype)


def mask(*shape: int, dtype: torch.dtype = torch.bool) -> Tensor:
    return torch.ones(shape or (B, H, W), dtype=dtype)


def theta(batch: int = B, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(batch, 2, 3, dtype=dtype)


def mean(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape or (C, H, W), dtype=dtype)


def whitener(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape or (H * W, C * (C + 1) // 2), dtype=dtype)


f16, f32, f64, i64 = torch.float16, torch.float32, torch.float64, torch.int64
