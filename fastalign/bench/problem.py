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
    rank: int | None = None  # of its low-rank form; None: packed
    small: bool = False  # shows the overhead of a call

    @property
    def name(self) -> str:
        words = [self.op, self.work, "x".join(map(str, self.shape)), short(self.dtype)]
        if self.layout != CONTIGUOUS:
            words.append(self.layout)
        if self.stored != "float32":
            words.append(f"{self.stored} factors")
        return ", ".join(words)

    @property
    def stored(self) -> str:
        """How the whitener is stored: its dtype, and the rank where it is of low rank."""
        return (
            short(self.storage) if self.rank is None else f"rank {self.rank} {short(self.storage)}"
        )

    def random(self, generator: torch.Generator, device: str) -> Tensor:
        x = torch.randn(self.shape, generator=generator).to(self.dtype).to(device)
        return x.contiguous(memory_format=FORMATS[self.layout])
