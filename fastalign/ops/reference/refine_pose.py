"""Gauss-Newton refinement of poses in plain PyTorch: one step after the other, over whole batches.

Every step needs the weighted sums of products of these features of a location: 1, the template, the
warped image, and the change of the template with each parameter. Correlations near their maximum
differ by less than float32 keeps of such sums, so they are taken in float64 where there is such.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fastalign.ops import affine
from fastalign.ops.reference.warp_affine import (
    warp_affine,
    warp_affine_derivable,
    warp_affine_plain,
)

Warp = Callable[[Tensor, Tensor, tuple[int, ...], str, str, bool], Tensor]
Solve = Callable[[Tensor, Tensor], Tensor]

# Levenberg-Marquardt: the diagonal a little larger.
DAMPING = 1e-3
# Keeps a template without any edges from a singular system.
RIDGE = 1e-9
# A pose that leaves less of the template's weight in sight than this share is no pose.
LEAST_COVERED = 0.25
# A step that lowers the correlation by less than this is taken in part, the less of it the more it
# lowers it: a pose then depends on its image without a jump, and not on how sums were rounded.
TIE = 1e-4
# Variances and weights below this count as this.
LEAST = 1e-12


class _Map(NamedTuple):
    """What a step sums over the ``n`` locations of the template and that no image changes."""

    grid: Tensor  # [3,n] homogeneous normalised coordinates
    inside: Tensor  # [2,1] where a sample with all its neighbours lies, at most
    weight: Tensor  # [n]
    fixed: Tensor  # [n, 3 + 2P + P*P], in the dtype of the sums
    with_image: Tensor  # [n, 2 + P]
    parameters: int


def steepest(template: Tensor, generators: Tensor) -> Tensor:
    """Change of the template ``[h,w]`` with each parameter, at the identity: ``[h,w,P]``."""
    height, width = template.shape
    gx, gy = _slope(template), _slope(template.mT).mT
    x = affine.pixel_centres(width, template, False)
    y = affine.pixel_centres(height, template, False)[:, None]
    along_x, along_y = (
        generators[:, axis, 0, None, None] * x
        + (generators[:, axis, 1, None, None] * y + generators[:, axis, 2, None, None])
        for axis in (0, 1)
    )
    return (gx * along_x + gy * along_y).permute(1, 2, 0)


def _slope(template: Tensor) -> Tensor:
    """Per normalised unit along the rows, by central differences; 0 at both ends."""
    width = template.shape[1]
    if width < 3:
        return torch.zeros_like(template)
    return F.pad((template[:, 2:] - template[:, :-2]) * (width / 4), (1, 1))


def _map_of(template: Tensor, weight: Tensor, generators: Tensor, sums: torch.dtype) -> _Map:
    height, width = template.shape
    changes = steepest(template, generators).flatten(0, 1)
    flat = template.reshape(-1, 1)
    ones = torch.ones_like(flat)
    products = (changes[:, :, None] * changes[:, None, :]).flatten(1)
    x = affine.pixel_centres(width, template, False).expand(height, width)
    y = affine.pixel_centres(height, template, False)[:, None].expand(height, width)
    fixed = torch.cat([ones, flat, flat.square(), changes, flat * changes, products], 1)
    return _Map(
        torch.stack([x, y, torch.ones_like(x)]).flatten(1),
        # As affine.valid_mask with a margin of one pixel.
        torch.stack([ones[0] - 2 / width, ones[0] - 2 / height]),
        weight.flatten(),
        fixed.to(sums),
        torch.cat([ones, flat, changes], 1).to(sums),
        changes.shape[1],
    )


def _compare(warped: Tensor, theta: Tensor, m: _Map) -> tuple[Tensor, Tensor, Tensor]:
    """Correlation ``[B]``, and the normal equations of the next step: ``[B,P,P]``, ``[B,P,1]``."""
    sums, count = m.fixed.dtype, m.parameters
    # Comparisons with what is not finite are false, so a lost pose is among the unseen.
    inside = ((theta @ m.grid).abs() <= m.inside).all(1)
    weight = (inside * m.weight).to(sums)
    warped = torch.where(inside, warped, 0.0).to(sums)
    weighted = weight * warped
    of_weight, of_image = weight @ m.fixed, weighted @ m.with_image
    total = of_weight[:, :1].clamp_min(LEAST)
    _, template, squared, changes, by_template, products = (of_weight / total).split(
        [1, 1, 1, count, count, count * count], 1
    )
    image, both, by_image = (of_image / total).split([1, 1, count], 1)
    spread = (weighted * warped).sum(1, keepdim=True) / total - image.square()
    of_template = (squared - template.square()).clamp_min(LEAST)
    spread = spread.clamp_min(LEAST)
    correlation = (both - image * template) / (spread * of_template).sqrt()
    seen = (of_weight[:, :1] > m.weight.sum().to(sums) * LEAST_COVERED) & (correlation <= 2)
    correlation = torch.where(seen, correlation, -1.0)
    gain = (of_template / spread).sqrt()
    descent = gain * (by_image - image * changes) - (by_template - template * changes)
    return correlation, products.unflatten(1, (count, count)), descent.unsqueeze(2)


def _move(step: Tensor, generators: Tensor) -> Tensor:
    """The maps of small steps ``[B,P]`` in homogeneous coordinates ``[B,3,3]``: the exponential of
    their generators to second order, which is the inverse of that of the opposite steps."""
    generator = F.pad((step @ generators.flatten(1)).unflatten(1, (2, 3)), (0, 0, 0, 1))
    identity = torch.eye(3, dtype=step.dtype, device=step.device)
    return identity + generator + 0.5 * (generator @ generator)


def solve_ex(matrix: Tensor, right: Tensor) -> Tensor:
    """Solutions ``[B,P,1]`` of systems ``[B,P,P]``, ``[B,P,1]``; not finite where one is
    singular."""
    return torch.linalg.solve_ex(matrix, right).result


def eliminate(matrix: Tensor, right: Tensor) -> Tensor:
    """The same for symmetric, positive definite systems, by elimination without pivoting: in ops
    that every runtime has. At most six unknowns."""
    rows = list(torch.cat([matrix, right], 2).unbind(1))
    count = len(rows)
    for pivot in range(count):
        rows[pivot] = rows[pivot] / rows[pivot][:, pivot, None]
        for other in range(count):
            if other != pivot:
                rows[other] = rows[other] - rows[other][:, pivot, None] * rows[pivot]
    return torch.stack(rows, 1)[:, :, -1:]


def _refine(
    edges: Tensor,
    theta: Tensor,
    template: Tensor,
    weight: Tensor,
    generators: Tensor,
    iterations: int,
    *,
    warp: Warp,
    solve: Solve,
    sums: torch.dtype,
) -> tuple[Tensor, Tensor]:
    batch, candidates = theta.shape[:2]
    size, dtype = tuple(template.shape), theta.dtype
    m = _map_of(template, weight, generators, sums)
    damping = DAMPING * torch.eye(m.parameters, dtype=sums, device=theta.device)
    ridge = RIDGE * torch.eye(m.parameters, dtype=sums, device=theta.device)
    images = edges.to(dtype).repeat_interleave(candidates, 0)
    theta = theta.flatten(0, 1)
    best, best_theta = None, theta
    for iteration in range(iterations + 1):
        warped = warp(images, theta, size, "bilinear", "border", False).flatten(1)
        correlation, hessian, descent = _compare(warped, theta, m)
        if best is None:
            best = correlation
        else:
            share = ((correlation - best) / TIE + 1).clamp(0, 1).to(dtype).unsqueeze(2)
            moved = best_theta + share * (theta - best_theta)
            # A step that is not finite has no share, and must not be multiplied by it.
            best_theta = torch.where(share > 0, moved, best_theta)
            best = torch.where(correlation > best, correlation, best)
        if iteration < iterations:
            damped = torch.addcmul(hessian + ridge, hessian, damping)
            step = solve(damped, descent).squeeze(2)
            move = _move(-step, generators.to(sums))
            theta = (theta.to(sums) @ move).to(dtype)
    assert best is not None
    shape = (batch, candidates)
    return best_theta.unflatten(0, shape), best.to(dtype).view(shape)


def _sums(edges: Tensor) -> torch.dtype:
    return torch.float32 if edges.device.type == "mps" else torch.float64  # which has no float64


def refine_pose(
    edges: Tensor,
    theta: Tensor,
    template: Tensor,
    weight: Tensor,
    generators: Tensor,
    iterations: int,
) -> tuple[Tensor, Tensor]:
    """See ``fastalign.ops.refine_pose``."""
    if theta.numel() == 0:
        return theta.new_empty(theta.shape), theta.new_empty(theta.shape[:2])
    given = edges, theta, template, weight, generators, iterations
    found, best = _refine(*given, warp=warp_affine, solve=solve_ex, sums=_sums(edges))
    # Without a step the result is the start, which is no memory of its own.
    return found.clone() if iterations == 0 else found, best


def refine_pose_plain(
    edges: Tensor,
    theta: Tensor,
    template: Tensor,
    weight: Tensor,
    generators: Tensor,
    iterations: int,
) -> tuple[Tensor, Tensor]:
    """``refine_pose`` in ops that torch itself exports, its sums in the dtype of theta."""
    given = edges, theta, template, weight, generators, iterations
    return _refine(*given, warp=warp_affine_plain, solve=eliminate, sums=theta.dtype)


def refine_pose_derivable(
    edges: Tensor,
    theta: Tensor,
    template: Tensor,
    weight: Tensor,
    generators: Tensor,
    iterations: int,
) -> tuple[Tensor, Tensor]:
    """``refine_pose`` in ops that torch itself differentiates, to any order."""
    given = edges, theta, template, weight, generators, iterations
    return _refine(*given, warp=warp_affine_derivable, solve=eliminate, sums=_sums(edges))
