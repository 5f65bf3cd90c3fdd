"""What an op is measured on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CONTIGUOUS, CHANNELS_LAST = "contiguous", "channels_last"
FORMATS = {CONTIGUOUS: torch.contiguous_format, CHANNELS_LAST: torch.channels_last}


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Problem:
    """An op's work on one shape, in one dtype and layout."""

    op: str
    work: str
    shape: tuple[int, int, int, int]
    dtype: torch.dtype = torch.float32
    layout: str = CONTIGUOUS
    storage: torch.dtype = torch.float32  # of mahalanobis' whitener
    small: bool = False  # shows the overhead of a call

    @property
    def name(self) -> str:
        words = [self.op, self.work, "x".join(map(str, self.shape)), short(self.dtype)]
        if self.layout != CONTIGUOUS:
            words.append(self.layout)
        if self.storage != torch.float32:
            words.append(f"{short(self.storage)} factors")
        return ", ".join(words)

    def random(self, generator: torch.Generator, device: str) -> Tensor:
        x = torch.randn(self.shape, generator=generator).to(self.dtype).to(device)
        return x.contiguous(memory_format=FORMATS[self.layout])
