"""What the ops are compared with: the same results by plain PyTorch, as one would write them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

_HALVES = (torch.float16, torch.bfloat16)


def widened(x: Tensor) -> Tensor:
    """16-bit tensors in float32, as these formulas need it: their own squares overflow."""
    return x.float() if x.dtype in _HALVES else x


def closed_form_loss(p: Tensor, z: Tensor) -> Tensor:
    """Minus the mean cosine of all pairs from the sum of the unit vectors: O(B)."""
    p_unit, z_unit = F.normalize(widened(p), dim=1), F.normalize(widened(z), dim=1)
    others = z_unit.sum(0, keepdim=True) - z_unit
    return -(p_unit * others).sum(1).mean() / (p.shape[0] - 1)


def closed_form_map(p: Tensor, z: Tensor) -> Tensor:
    """Mean cosine of each image with all others, ``[B,H,W]``, from the sum of the unit vectors."""
    p_unit, z_unit = F.normalize(widened(p), dim=1), F.normalize(widened(z), dim=1)
    return (p_unit * (z_unit.sum(0, keepdim=True) - z_unit)).sum(1) / (p.shape[0] - 1)


def pair_loop_loss(p: Tensor, z: Tensor) -> Tensor:
    """The same by a loop over all ordered pairs of images."""
    p, z = widened(p), widened(z)
    images = range(p.shape[0])
    pairs = [(a, b) for a in images for b in images if a != b]
    return -torch.stack([F.cosine_similarity(p[a], z[b], dim=0).mean() for a, b in pairs]).mean()


def grid_warp(x: Tensor, theta: Tensor) -> Tensor:
    """affine_grid and grid_sample; 16-bit images in float32, since a 16-bit grid is too coarse."""
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(widened(x), grid, align_corners=False).to(x.dtype)


def distances_to_all(part: Tensor, every: Tensor) -> Tensor:
    """Sum of the distances of some images to all: one ``[n,B,C,H,W]`` difference."""
    difference = widened(part)[:, None] - widened(every)[None]
    return torch.linalg.vector_norm(difference, dim=2).sum()


def pair_distance_map(h: Tensor) -> Tensor:
    """Mean distance of each image to all others, ``[B,H,W]``: one ``[B,B,C,H,W]`` difference."""
    h = widened(h)
    return torch.linalg.vector_norm(h[:, None] - h[None], dim=2).sum(1) / (h.shape[0] - 1)


def chunked_distance_loss(
    h: Tensor, total: Callable[[Tensor, Tensor], Tensor] = distances_to_all, images: int = 4
) -> tuple[Tensor, Tensor]:
    """Mean distance of all pairs and its gradient, a few images at a time so that it fits."""
    batch, _, height, width = h.shape
    share = 1 / (batch * (batch - 1) * height * width)
    value, gradient = h.new_zeros((), dtype=torch.float32), torch.zeros_like(h, dtype=torch.float32)
    for start in range(0, batch, images):
        summed = total(h[start : start + images], h) * share
        gradient = gradient + torch.autograd.grad(summed, h)[0].float()
        value = value + summed.detach()
    return value, gradient.to(h.dtype)


def cdist_loss(h: Tensor) -> Tensor:
    """The same by torch.cdist at every location: all pairs in memory, in one call."""
    batch, _, height, width = h.shape
    return _cdist(h).sum() / (batch * (batch - 1) * height * width)


def cdist_map(h: Tensor) -> Tensor:
    """:func:`pair_distance_map` by torch.cdist."""
    batch, _, height, width = h.shape
    return (_cdist(h).sum(2) / (batch - 1)).T.reshape(batch, height, width)


def _cdist(h: Tensor) -> Tensor:
    batch, channels, height, width = h.shape
    vectors = widened(h).permute(2, 3, 0, 1).reshape(height * width, batch, channels)
    # The other mode takes differences of squares and loses the small distances.
    return torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")


def inverse_covariance_distance(x: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
    """Batched products with the full inverse covariance ``[H*W,C,C]``, as anomalib scores."""
    batch, channels, height, width = x.shape
    delta = (widened(x) - mean).reshape(batch, channels, height * width).permute(2, 0, 1)
    square = ((delta @ inverse) * delta).sum(2).permute(1, 0)
    return square.reshape(batch, height, width).clamp(min=0).sqrt()


def inverse_covariance(whitener: Tensor, channels: int) -> Tensor:
    """``[H*W,C,C]`` float32 from packed factors ``[H*W,C(C+1)/2]`` or rows ``[H*W,R,C]``."""
    if whitener.dim() == 3:
        rows = whitener.float()
        root = torch.eye(channels, device=whitener.device) - rows.mT @ rows
        return root @ root
    row, column = torch.tril_indices(channels, channels, device=whitener.device)
    factor = torch.zeros(len(whitener), channels, channels, device=whitener.device)
    factor[:, row, column] = whitener.float()
    return factor.mT @ factor
