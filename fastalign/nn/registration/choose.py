"""Whether to align at all and by which transformations, judged on normal images alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fastalign.nn.registration.encoder import LocalEncoder
from fastalign.nn.registration.search import Search, search_poses
from fastalign.nn.transfer import fetched, sent
from fastalign.ops import affine, warp_affine
from fastalign.words import count

_FOLDS = 4
# Fewer images cannot be judged on: each fold needs one.
LEAST_IMAGES = _FOLDS
_BATCH = 32
# Aligning has to leave at least this share less unexplained than leaving images as they are: it
# resamples them and loses their rims.
MARGIN = 0.1
# A larger family than one that is aligned by already costs neither once more.
_MARGIN_OF_FREEDOM = 0.05
# What is tried when the family is left open, from the smallest on: name, largest rotation.
_LADDER = (
    ("translation", 0.0),
    ("rotation_translation", math.radians(30)),
    ("rotation_translation", math.pi),
)

Extract = Callable[[Tensor], Sequence[Tensor]]


def ladder(family: str) -> tuple[tuple[str, float], ...]:
    """What :func:`choose_family` tries for a family: names and largest rotations at first."""
    return _LADDER if family == "auto" else ((family, math.pi),)


class Choice(NamedTuple):
    """The outcome of :func:`choose_family`.

    ``search`` is None where alignment stays out. ``shares`` holds the unexplained share of each
    attempt by name, ``"none"`` among them.
    """

    search: Search | None
    summary: str
    reason: str
    shares: dict[str, float]


def unexplained_share(stages: Sequence[Tensor], theta: Tensor, image_size: Sequence[int]) -> float:
    """How much of held-out images the mean of the others leaves unexplained, 0 to about 1. Ours.

    For each stage the features are centred and scaled to length 1. In four folds, the squared
    distance of held-out vectors to the mean of the others *at their location* is divided by that
    to their mean over *all* locations; places that warps took from outside the image, or that fewer
    than half of the images saw, do not count. 1: knowing the location helps nothing; 0: the images
    agree everywhere. The stages are averaged.

    Arguments:
        stages: features of N aligned images, one ``[N,C_i,h_i,w_i]`` per stage, N at least 4.
        theta: ``[N,2,3]`` by which they were aligned.
        image_size: height and width of the images.
    """
    number = len(theta)
    order = torch.randperm(number, generator=torch.Generator().manual_seed(0))
    order = sent(order, theta.device)
    folds = [order[fold::_FOLDS] for fold in range(_FOLDS)]
    sums_of_stages = []
    for features in stages:
        valid = affine.valid_mask(theta, image_size, features.shape[-2:])
        unit = F.normalize(features - features.mean((0, 2, 3), keepdim=True), dim=1)
        weight = valid.unsqueeze(1).to(unit.dtype)
        total, count = (unit * weight).sum(0), weight.sum(0)
        residual = baseline = total.new_zeros((), dtype=torch.float64)
        for held_out in folds:
            given, seen = unit[held_out], weight[held_out]
            rest = count - seen.sum(0)
            sums = total - (given * seen).sum(0)
            supported = (rest >= 0.5 * (number - len(held_out))).to(unit.dtype)
            local = sums / rest.clamp_min(1)
            everywhere = (sums * supported).sum((1, 2)) / (rest * supported).sum().clamp_min(1)
            counted = seen * supported
            residual = residual + ((given - local).square() * counted).sum()
            baseline = baseline + ((given - everywhere[:, None, None]).square() * counted).sum()
        sums_of_stages.append(torch.stack([residual, baseline]))
    found = fetched(torch.stack(sums_of_stages)).tolist()
    shares = [residual / baseline if baseline > 0 else 1.0 for residual, baseline in found]
    return sum(shares) / len(shares)


def choose_family(
    images: Tensor,
    encoder: Callable[[], LocalEncoder],
    extract: Extract,
    *,
    family: str = "auto",
    aspect: float = 1.0,
    may_skip: bool = True,
    iterations: int = 8,
    report: Callable[[], None] = lambda: None,
) -> Choice:
    """Search poses in growing families and keep the smallest one that explains the images. Ours.

    Arguments:
        images: normal images ``[N,3,h,w]`` in 0..1 at the search size.
        encoder: makes an unfitted encoder.
        extract: features of aligned images at the search size, one tensor per stage.
        family: a transformation family, or ``"auto"`` to try none, translation, rotations up to 30
            degrees with translation, and full turns with translation.
        aspect: width over height of the photographs in true units.
        may_skip: leave alignment out where it leaves no less unexplained.
        iterations: Gauss-Newton steps.
        report: called after each attempt.
    """
    if len(images) < LEAST_IMAGES and may_skip:
        return Choice(
            None,
            "no alignment",
            f"{count(len(images), 'image', 'are')} too few to judge it by; it takes {LEAST_IMAGES}",
            {},
        )

    def share(theta: Tensor) -> float:
        return unexplained_share(_stages(images, theta, extract), theta, images.shape[-2:])

    judged = len(images) >= LEAST_IMAGES
    identity = affine.identity(len(images), device=images.device)
    shares = {"none": share(identity) if judged else math.nan}
    kept, best = None, shares["none"]
    attempts = ladder(family)
    for index, (name, limit) in enumerate(attempts):
        found = search_poses(
            images, encoder(), name, aspect=aspect, max_angle=limit, iterations=iterations
        )
        label = name if limit < math.pi or len(attempts) == 1 else f"{name}, full turns"
        shares[label] = share(found.theta) if judged else math.nan
        must = not may_skip and index == 0
        margin = MARGIN if kept is None else _MARGIN_OF_FREEDOM
        if must or shares[label] < (1 - margin) * best:
            kept, best = found, shares[label]
        report()
    summary = "no alignment" if kept is None else _summary(kept)
    return Choice(kept, summary, _explain(shares), shares)


def _summary(found: Search) -> str:
    """The family in words, with the angles that the bank holds."""
    bank, family = found.aligner.bank, found.aligner.refiner.family
    if len(bank.angles) == 1:
        return f"aligned by {family}"
    if bank.full_circle:
        return f"aligned by {family}, full turns"
    return f"aligned by {family} within {math.degrees(float(bank.angles.max())):.0f} degrees"


def _explain(shares: dict[str, float]) -> str:
    figures = ", ".join(f"{name} {100 * value:.1f} %" for name, value in shares.items())
    return (
        f"share of held-out normal images that their mean leaves unexplained: {figures}; aligning "
        f"has to lower it by {100 * MARGIN:.0f} % of itself, more freedom by "
        f"{100 * _MARGIN_OF_FREEDOM:.0f} %"
    )


def _stages(images: Tensor, theta: Tensor, extract: Extract) -> list[Tensor]:
    """Features of the aligned images, one tensor per stage."""
    batches = []
    for batch, poses in zip(images.split(_BATCH), theta.split(_BATCH), strict=True):
        aligned = warp_affine(batch, poses, padding_mode="border")
        batches.append([stage.float() for stage in extract(aligned)])
    return [torch.cat(stage) for stage in zip(*batches, strict=True)]
