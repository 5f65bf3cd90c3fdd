"""What the options say of how a density is kept, in memory and in a file."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fastalign.models.config import FYDConfig
from fastalign.nn import eight_bits
from fastalign.nn.low_rank import LowRank

_WHITENER = "gaussians.whitener"
# In its place in a file: multiples [H*W,R,C] int8 and scales [H*W,R] float16.
_NUMBERS, _SCALES = "gaussians.whitener_numbers", "gaussians.whitener_scales"
_EIGHT = "int8"


def dtype_of(config: FYDConfig) -> torch.dtype:
    """Of the Gaussians in memory."""
    found = torch.float16 if config.storage == _EIGHT else getattr(torch, config.storage)
    assert isinstance(found, torch.dtype)
    return found


def form_of(config: FYDConfig, strength: float, images: int) -> LowRank:
    """How covariances from so many images with a prior are kept, where they are as an identity and
    a few directions."""
    bits = 8 if config.storage == _EIGHT else 16
    return LowRank(strength, min(config.rank, images - 1), config.neighbours, bits)


def packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a density as a file has them: directions whose numbers are of 8 bits in
    these."""
    found = dict(tensors)
    whitener = found.get(_WHITENER)
    if whitener is None or whitener.dim() != 3 or whitener.dtype != torch.float16:
        return found
    small = eight_bits.packed(whitener)
    if small is not None:
        del found[_WHITENER]
        found[_NUMBERS], found[_SCALES] = small
    return found


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a density, of those of a file.

    Raises:
        KeyError: one of two that belong together is missing.
        ValueError: they do not fit each other.
    """
    found = dict(tensors)
    if _NUMBERS in found or _SCALES in found:
        found[_WHITENER] = eight_bits.unpacked(found.pop(_NUMBERS), found.pop(_SCALES))
    return found
