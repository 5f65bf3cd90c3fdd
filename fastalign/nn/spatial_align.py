"""A spatial transformer whose warp is bounded: localiser, theta, resampling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from fastalign.errors import ConfigError
from fastalign.nn.constants import constant
from fastalign.nn.state import require_beside
from fastalign.numeric import LARGEST_ASPECT, LEAST_ASPECT, real_number, whole_number
from fastalign.ops import affine, checks, warp_affine

# What the localiser sees of its input, whatever that is: enough for a pose, and its cost is fixed.
_GRID = 16
_LARGEST_GRID = 1024
_MOST_HIDDEN = 1 << 16


@constant
def _pooling(size: int, grid: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Matrix ``[grid,size]`` whose rows average the bins of ``adaptive_avg_pool2d``."""
    matrix = torch.zeros(grid, size, dtype=torch.float64)
    for row in range(grid):
        start, end = row * size // grid, -(-(row + 1) * size // grid)
        matrix[row, start:end] = 1 / (end - start)
    return matrix.to(device, dtype)


def _pooled(x: Tensor, grid: int) -> Tensor:
    """``adaptive_avg_pool2d(x, grid)`` as two products: its own backward pass on CUDA gives other
    bits from run to run and is refused by torch's deterministic mode."""
    rows, columns = (_pooling(size, grid, x.device, x.dtype) for size in x.shape[2:])
    return rows @ x @ columns.mT


class Aligned(NamedTuple):
    """``aligned [B,C,H,W]``; ``theta [B,2,3]``, aligned to input coordinates, float32; and
    ``valid [B,H,W]`` bool, False where the warp read from outside the input."""

    aligned: Tensor
    theta: Tensor
    valid: Tensor


class SpatialAlign(nn.Module):
    """Spatial transformer (arXiv 1506.02025): a small network reads a pose off its input and warps
    the input by it.

    [L] conv, pool, conv, pool, fully connected; the identity at the start. [O] The localiser sees
    its input pooled to a small grid, and each parameter passes through
    ``bound * tanh(value / bound)``: with free parameters a distance between images can be lowered
    by zooming into the background or pushing the part out of sight.

    Arguments:
        in_channels: C of the input.
        family: transformation family, a key of :data:`fastalign.ops.affine.FAMILIES`.
        hidden: channels of the two convolutions.
        grid: side of the map that the localiser sees.
        max_shift: bound of the translation along each axis, as a share of the size.
        max_angle: bound of the rotation in degrees.
        max_scale: bound of the scale, above 1, either way; of the entries of shear and of the free
            affine family its excess over 1.
        aspect: width over height of the photographs in true units, for rotations that are such.
        padding_mode: how places outside the input are filled, as in
            :func:`fastalign.ops.warp_affine`; ``valid`` marks them.

    Raises:
        ConfigError: no such family, or a bound out of range.
    """

    def __init__(
        self,
        in_channels: int,
        family: str = "rotation_scale",
        *,
        hidden: int = 16,
        grid: int = _GRID,
        max_shift: float = 0.25,
        max_angle: float = 180.0,
        max_scale: float = 1.5,
        aspect: float = 1.0,
        padding_mode: str = "border",
    ) -> None:
        super().__init__()
        if family not in affine.FAMILIES:
            raise ConfigError(
                f"SpatialAlign: family={family!r}, expected one of {', '.join(affine.FAMILIES)}"
            )
        in_channels = whole_number("SpatialAlign: in_channels", in_channels, 1)
        hidden = whole_number("SpatialAlign: hidden", hidden, 1, _MOST_HIDDEN)
        grid = whole_number("SpatialAlign: grid", grid, 4, _LARGEST_GRID)
        max_shift = real_number("SpatialAlign: max_shift", max_shift, 0, 10, above=True)
        max_angle = real_number("SpatialAlign: max_angle", max_angle, 0, 360, above=True)
        max_scale = real_number("SpatialAlign: max_scale", max_scale, 1, 100, above=True)
        aspect = real_number("SpatialAlign: aspect", aspect, LEAST_ASPECT, LARGEST_ASPECT)
        self.in_channels = in_channels
        self.family = family
        self.grid = grid
        self.aspect = aspect
        self.padding_mode = padding_mode
        bounds = {"shift": 2 * max_shift, "angle": math.radians(max_angle)}
        bounds |= {"log": math.log(max_scale), "shear": max_scale - 1}
        names = affine.FAMILIES[family]
        self.register_buffer(
            "bounds",
            torch.tensor([bounds.get(name.split("_")[0], max_scale - 1) for name in names]),
            persistent=False,
        )
        self.localiser = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(hidden * (grid // 4) ** 2, 32),
            nn.ReLU(),
        )
        self.head = nn.Linear(32, len(names))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    bounds: Tensor

    def localise(self, x: Tensor) -> Tensor:
        """theta ``[B,2,3]`` float32 of inputs ``[B,C,H,W]``."""
        checks.dense("SpatialAlign", "x", x)
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"SpatialAlign: x has shape {list(x.shape)}, expected [B, {self.in_channels}, H, W]"
            )
        checks.floating("SpatialAlign", "x", x)
        require_beside("SpatialAlign", "x", x, self.head.weight)
        seen = _pooled(x, self.grid).to(self.head.weight.dtype)
        parameters = self.head(self.localiser(seen)).float()
        bounds = self.bounds.float()
        return affine.from_parameters(
            bounds * torch.tanh(parameters / bounds), self.family, self.aspect
        )

    def forward(self, x: Tensor, theta: Tensor | None = None) -> Aligned:
        """Align inputs ``[B,C,H,W]`` by their own pose, or by ``theta [B,2,3]`` where given.

        Differentiable in the input and the parameters.

        Raises:
            ValueError: x of another shape.
        """
        if theta is None:
            theta = self.localise(x)
        aligned = warp_affine(x, theta, padding_mode=self.padding_mode)
        return Aligned(aligned, theta, affine.valid_mask(theta, x.shape[-2:]))

    if TYPE_CHECKING:  # nn.Module types calls as Any
        __call__ = forward

    def extra_repr(self) -> str:
        return f"{self.in_channels}, family={self.family!r}, aspect={self.aspect:g}"
