"""Finding the poses of a set of images, and with them the template, from nothing but the images."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fastalign.nn.registration.aligner import TemplateAligner, edge_size
from fastalign.nn.registration.bank import TemplateBank
from fastalign.nn.registration.encoder import LocalEncoder
from fastalign.nn.registration.refiner import GaussNewtonRefiner, edge_strength
from fastalign.nn.transfer import fetched, sent
from fastalign.ops import affine, warp_affine

# From one angle of a bank to the next; Gauss-Newton reaches further than half of it.
_STEP = math.radians(7.5)
# Rounds of aligning and averaging, and images at most that a bank averages.
_ROUNDS = 3
_MEMBERS = 16
_BATCH = 32
# Gauss-Newton steps of the aligner that results.
_QUICK = 2
# A larger share of the poses at the end of the angles means that some lie beyond.
_CROWDED = 0.05


class Search(NamedTuple):
    """The aligner, and theta ``[N,2,3]`` and correlation ``[N]`` of the images it was made from."""

    aligner: TemplateAligner
    theta: Tensor
    correlation: Tensor


def angles_within(limit: float) -> Tensor:
    """Angles of a bank up to ``limit`` radians to either side, the full circle from 180 degrees."""
    if limit <= 0:
        return torch.zeros(1)
    if limit >= math.pi - _STEP / 2:
        count = round(2 * math.pi / _STEP)
        return (torch.arange(count) - count // 2) * _STEP
    count = math.ceil(limit / _STEP)
    return torch.arange(-count, count + 1) * _STEP


def has_rotation(family: str) -> bool:
    """Whether maps of a family can turn an image."""
    return "angle" in affine.FAMILIES[family] or family == "affine"


def search_poses(
    images: Tensor,
    encoder: LocalEncoder,
    family: str,
    *,
    aspect: float = 1.0,
    max_angle: float = math.pi,
    max_shift: float = 0.35,
    iterations: int = 8,
) -> Search:
    """Align images with each other.

    The first image is the first template. In each round all images are aligned with the present
    template, the frame is moved to the mean pose, and the best correlated images become the next
    one; the encoder is fitted to them as they are turned through the bank's angles. In the end the
    bank keeps the angles that were seen and some more on either side. Ours.

    Arguments:
        images: ``[N,3,h,w]`` in 0..1 at the search size, N at least 1.
        encoder: descriptors; refitted in place.
        family: transformation family.
        aspect: width over height of the photographs in true units.
        max_angle: rotations to either side that are searched at first, in radians, pi for full
            turns. It is doubled as long as more than a few poses lie at its end.
        max_shift: largest shift as a share of the image.
        iterations: Gauss-Newton steps.
    """
    size = (images.shape[2], images.shape[3])
    edges = edge_strength(images, edge_size(size))
    limit = max_angle if has_rotation(family) else 0.0
    shift = max_shift if "shift_x" in affine.FAMILIES[family] else 0.0

    def assemble(members: Tensor, theta: Tensor, first: bool) -> TemplateAligner:
        template, weight = mean_template(edges[members], theta, first)
        return TemplateAligner(
            encoder,
            _bank(images[members], theta, encoder, angles_within(limit), aspect, shift),
            GaussNewtonRefiner(template, weight, family, aspect=aspect, iterations=iterations),
            size,
        )

    members = torch.zeros(1, dtype=torch.long, device=images.device)
    theta = affine.identity(1, device=images.device)
    rounds, round_ = _ROUNDS, 0
    while round_ < rounds:
        aligner = assemble(members, theta, first=round_ == 0)
        poses, correlation = _infer(aligner, images)
        if limit > 0 and _at_limit(poses, limit, aspect):
            limit = min(math.pi, 2 * limit)
            rounds += 1
        round_ += 1
        poses = recentre(poses, family, aspect)
        members = correlation.argsort(descending=True, stable=True)[:_MEMBERS]
        theta = poses[members]
    if limit > 0:
        limit = _seen(poses, aspect)
    aligner = assemble(members, theta, first=False)
    # The template of the refinement is the mean of all, not of the best alone.
    template, weight = mean_template(edges, poses, first=False)
    aligner.refiner = GaussNewtonRefiner(
        template, weight, family, aspect=aspect, iterations=iterations
    )
    found = Search(aligner, *_infer(aligner, images))
    # One image at a time has to be quick, and is near its pose after two steps.
    aligner.refiner.iterations = min(iterations, _QUICK)
    return found


def recentre(theta: Tensor, family: str, aspect: float) -> Tensor:
    """The same alignment in the frame of the mean pose, where most of each image is in sight."""
    if has_rotation(family):
        angle = affine.magnitude(theta, aspect)["rotation"].deg2rad()
        sine, cosine = angle.sin().mean(), angle.cos().mean()
        # Poses all around the circle have no mean direction.
        turn = torch.where(torch.hypot(sine, cosine) > 0.3, -torch.atan2(sine, cosine), 0.0)
        turn = affine.from_parameters(turn.view(1, 1), "rotation", aspect)
        theta = affine.compose(theta, turn)
    if "shift_x" in affine.FAMILIES[family]:
        linear, shift = theta[:, :, :2], theta[:, :, 2:]
        # Without a look at whether it could be solved, for which the device would be waited for:
        # sums of squares of warps that can be inverted can.
        left, right = (linear.mT @ linear).sum(0), (linear.mT @ shift).sum(0)
        centre = -torch.linalg.solve_ex(left, right).result
        eye = torch.eye(2, device=theta.device)
        theta = affine.compose(theta, torch.cat([eye, centre], 1)[None])
    return theta


def _at_limit(theta: Tensor, limit: float, aspect: float) -> bool:
    """Whether more than a few poses lie at the end of the angles, so that some lie beyond."""
    angle = affine.magnitude(theta, aspect)["rotation"].deg2rad().abs()
    if limit >= math.pi - _STEP / 2:
        return False
    return _number((angle > limit - _STEP).float().mean()) > _CROWDED


def _seen(theta: Tensor, aspect: float) -> float:
    """The largest rotation of these poses and a margin, in radians."""
    largest = math.radians(_number(affine.magnitude(theta, aspect)["rotation"].abs().max()))
    limit = largest + max(math.radians(15), 0.25 * largest)
    return math.pi if limit > math.radians(135) else limit


def _number(value: Tensor) -> float:
    """A scalar, for a decision on the host."""
    (number,) = fetched(value.view(1)).tolist()
    return float(number)


def _infer(aligner: TemplateAligner, images: Tensor) -> tuple[Tensor, Tensor]:
    poses = [aligner(batch) for batch in images.split(_BATCH)]
    return torch.cat([p.theta for p in poses]), torch.cat([p.correlation for p in poses])


def mean_template(edges: Tensor, theta: Tensor, first: bool = False) -> tuple[Tensor, Tensor]:
    """Mean of the aligned edge strengths and its weight, the larger where they agree: ``[h,w]``."""
    size = edges.shape[-2:]
    aligned = warp_affine(edges, theta, padding_mode="border").squeeze(1)
    valid = affine.valid_mask(theta, size, margin=1.0).to(aligned.dtype)
    count = valid.sum(0).clamp_min(1)
    template = (aligned * valid).sum(0) / count
    if first:
        return template, valid.mean(0)
    variance = ((aligned - template).square() * valid).sum(0) / count
    typical = variance.mean().clamp_min(1e-6)
    return template, (valid.mean(0) > 0.5) * typical / (variance + typical)


def _bank(
    images: Tensor,
    theta: Tensor,
    encoder: LocalEncoder,
    angles: Tensor,
    aspect: float,
    max_shift: float,
) -> TemplateBank:
    """Templates of the aligned images, turned by each angle before they are encoded: a network's
    features do not turn with its input."""
    features, valid = [], []
    turns = sent(affine.from_parameters(angles[:, None], "rotation", aspect), theta.device)
    for turn in turns:
        turned = affine.compose(theta, turn)
        found = encoder.features(warp_affine(images, turned, padding_mode="border"))
        features.append(found)
        valid.append(affine.valid_mask(turned, images.shape[-2:], found.shape[-2:]))
    encoder.fit(torch.cat(features), torch.cat(valid))
    templates = [
        (encoder.project(found) * seen[:, None]).sum(0) / seen.sum(0).clamp_min(1)
        for found, seen in zip(features, valid, strict=True)
    ]
    return TemplateBank(angles, torch.stack(templates), aspect=aspect, max_shift=max_shift)
