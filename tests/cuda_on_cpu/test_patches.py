"""Warps of several tiles: patches that fit, that do not, and that the border or the image ends."""

from __future__ import annotations

import math

import pytest
import torch
from cuda_on_cpu_support.backend import DTYPES
from op_support import stems
from op_support.cases import Inputs
from op_support.tolerance import assert_accurate, edge_band

from fastalign import ops

# Degrees and scale: boxes of 3 x 3 and larger ones, candidates too far for one, patches too large.
MAPS = {
    "as it is": (0, 1.0),
    "a small turn": (17, 1.0),
    "half a right angle": (45, 1.0),
    "a right angle": (90, 1.0),
    "larger": (-30, 0.45),
    "smaller": (10, 1.9),
    "much smaller": (5, 20.0),
}
PADDINGS = ("zeros", "border", "reflection")
# Whole fours and pairs of columns and not, colours and other numbers of channels.
SHAPES = {
    "wide": (1, 3, 36, 44),
    "ragged": (1, 5, 35, 41),
    "ragged colours": (1, 3, 18, 37),
}


def _map(degrees: float, scale: float) -> torch.Tensor:
    angle = math.radians(degrees)
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    return torch.tensor([[[cosine, -sine, 0.031], [sine, cosine, -0.017]]])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", MAPS)
def test_tiles_and_their_patches(name, shape, backend, poisoned):
    turn, step = list(MAPS).index(name), list(SHAPES).index(shape)
    dtype, padding = DTYPES[(turn + step) % 3], PADDINGS[(turn + 2 * step) % 3]
    corners, shape = turn % 2 == 1, SHAPES[shape]
    x = Inputs(dtype, "cpu", "contiguous", shape).features()
    backend.require("warp_affine", x)
    theta, size = _map(*MAPS[name]), shape[2:]
    # On a pixel's edge the gradient of the map may be that of either side: such pixels get none.
    edge = edge_band(theta, size, size, corners, "bilinear")
    assert edge.float().mean() < 0.02
    leaves = x.clone().requires_grad_(), theta.requires_grad_()
    options = "bilinear", padding, corners
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    wanted = stems.of("warp_affine").definition(*exact, size, *options)
    weight = torch.linspace(0.5, 1.5, wanted.numel()).view(wanted.shape)
    weight = weight.masked_fill(edge[:, None], 0.0).to(dtype)
    best = wanted, *torch.autograd.grad(wanted, exact, weight.double())

    def found(name: str) -> tuple[torch.Tensor, ...]:
        out = ops.warp_affine(*leaves, size, *options, backend=name)
        return out, *torch.autograd.grad(out, leaves, weight)

    for what, got, right, plain in zip(
        ("out", "x", "theta"), found(backend.name), best, found("reference"), strict=True
    ):
        assert_accurate(got, right.detach(), plain, ulps=64, name=f"{padding} {what}")
