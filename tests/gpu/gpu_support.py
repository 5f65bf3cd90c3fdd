"""Options and photographs of the tests on a GPU."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastalign.ops import affine, warp_affine

SIZE = 64
QUICK = {"image_size": (SIZE, SIZE), "channels": 12, "epochs": 1, "batch_size": 4}


def photographs(number: int, seed: int = 0) -> Tensor:
    """A plate without any symmetry, turned up to 15 degrees and shifted: ``[N,3,64,64]``."""
    y, x = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    part = torch.full((3, 256, 256), 0.25)
    part[:, (x > 70) & (x < 190) & (y > 84) & (y < 172)] = 0.6
    part[0, (x > 84) & (x < 104) & (y > 96) & (y < 160)] = 0.1
    part[2, ((x - 160) ** 2 + (y - 110) ** 2) < 200] = 0.95
    generator = torch.Generator().manual_seed(seed)
    draw = 2 * torch.rand(number, 3, generator=generator) - 1
    theta = affine.from_parameters(
        draw * torch.tensor([math.radians(15), 0.1, 0.1]), "rotation_translation"
    )
    moved = warp_affine(part.expand(number, -1, -1, -1), theta, padding_mode="border")
    small = torch.nn.functional.avg_pool2d(moved, 256 // SIZE)
    return (small + 0.01 * torch.randn(small.shape, generator=generator)).clamp(0, 1)
