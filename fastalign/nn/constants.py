"""Tensors that depend on sizes alone, kept from call to call."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache

import torch
from torch import Tensor


def constant(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``make`` with its last 64 results kept.

    While something is traced (torch.export, torch.compile, fake tensors) the result is made anew
    and not kept: it may hold no numbers, and one that is kept may not be let in.
    """

    @lru_cache(maxsize=64)
    def kept(*key: Hashable) -> Tensor:
        # For later calls that have gradients.
        with torch.inference_mode(False):
            return make(*key)

    def get(*key: Hashable) -> Tensor:
        if torch.compiler.is_compiling() or type(torch.empty(0)) is not Tensor:
            return make(*key)
        return kept(*key)

    return get
