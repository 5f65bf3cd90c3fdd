"""Random tensors of every kind that an op takes, and what tests do with them."""

from __future__ import annotations

import torch
from torch import Tensor

from fastalign.ops import affine
from op_support.layouts import LAYOUTS, strided

Arguments = tuple[object, ...]

# Odd sizes that no vector width divides; B has groups of one, two and three images.
SHAPE = (6, 7, 5, 9)
GROUPS = (4, -2, 4, 9, 4, -2)
# Output sizes: the input's own, and one that is neither larger nor smaller on both axes.
OTHER_SIZE = (8, 4)
HALVES = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, torch.float64, *HALVES)


def accumulation(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


class Inputs:
    """Random tensors of one shape, dtype, device and layout, the same for the same seed."""

    def __init__(
        self,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        layout: str = "contiguous",
        shape: tuple[int, int, int, int] = SHAPE,
        seed: int = 0,
    ) -> None:
        self.dtype, self.device, self.layout, self.shape = dtype, device, layout, shape
        self.generator = torch.Generator().manual_seed(seed)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def _lay(self, values: Tensor) -> Tensor:
        """Into the layout: of maps as it says, of other tensors strided unless contiguous."""
        values = values.to(self.device)
        if values.dim() == 4:
            return LAYOUTS[self.layout](values)
        return values if self.layout == "contiguous" else strided(values)

    def features(self) -> Tensor:
        return self._lay(self._normal(*self.shape).to(self.dtype))

    def other_size(self, height: int, width: int) -> Tensor:
        return self._lay(self._normal(*self.shape[:2], height, width).to(self.dtype))

    def location_gradient(self) -> Tensor:
        batch, _, height, width = self.shape
        return self._lay(self._normal(batch, height, width).to(accumulation(self.dtype)))

    def groups(self) -> Tensor:
        repeated = [GROUPS[i % len(GROUPS)] for i in range(self.shape[0])]
        return self._lay(torch.tensor(repeated, dtype=torch.int64))

    def mask(self) -> Tensor:
        batch, _, height, width = self.shape
        return self._lay(torch.rand(batch, height, width, generator=self.generator) > 0.3)

    def theta(self, dtype: torch.dtype | None = None, size: float = 0.2) -> Tensor:
        """Maps turned, scaled, sheared, shifted, partly out of the image."""
        offset = self._normal(self.shape[0], 6) * size
        theta = affine.from_parameters(offset, "affine")
        return self._lay(theta.to(dtype or accumulation(self.dtype)))

    def mean(self) -> Tensor:
        return self._lay(self._normal(*self.shape[1:]).to(accumulation(self.dtype)))

    def scale(self) -> Tensor:
        """A factor for each location, 0 at some."""
        values = torch.rand(*self.shape[2:], generator=self.generator, dtype=torch.float64) - 0.2
        return self._lay(values.clamp_min(0).to(accumulation(self.dtype)))

    def whitener(self, dtype: torch.dtype | None = None) -> Tensor:
        _, channels, height, width = self.shape
        packed = self._normal(height * width, channels * (channels + 1) // 2)
        return self._lay(packed.to(dtype or accumulation(self.dtype)))

    def low_rank(self, rank: int, dtype: torch.dtype | None = None) -> Tensor:
        """Rows of the low-rank form of a whitener, ``[H*W,rank,C]``, shorter than 1 as of a fit."""
        _, channels, height, width = self.shape
        rows = self._normal(height * width, rank, channels) / (2 * max(channels, 1) ** 0.5)
        return self._lay(rows.to(dtype or accumulation(self.dtype)))


def short(dtype: torch.dtype) -> str:
    """``torch.float32`` as ``float32``, for test names."""
    return str(dtype).removeprefix("torch.")


def as_tuple(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def exact(case_arguments: Arguments) -> Arguments:
    """The same values in float64 on the CPU, for the exact result."""
    return tuple(
        value.detach().cpu().double()
        if isinstance(value, Tensor) and value.is_floating_point()
        else (value.cpu() if isinstance(value, Tensor) else value)
        for value in case_arguments
    )


def narrowed(case_arguments: Arguments) -> Arguments:
    """The same arguments with float64 tensors rounded to float32."""
    return tuple(
        value.float() if isinstance(value, Tensor) and value.dtype == torch.float64 else value
        for value in case_arguments
    )
