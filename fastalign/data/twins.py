"""Photographs that show the same: copies, re-encoded files, frames of one burst. Ours.

A photograph is looked at once, as :func:`glance` sees it: a small grey picture, which forgets noise
and the traces of compression and keeps what is where. Two of them are twins where they are far
closer to each other than the photographs of their set are by and large, so a camera that never
moves makes no twins of different parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 16
# Pixels of an image that shows nothing spread by less, in 0..1: one grey level of 256.
NO_CONTENT = 1 / 255
# Photographs whose small pictures differ by less, in 0..1, are those of one still scene.
STILL = 0.5 / 255
# Twins are closer than this share of the distance between the photographs of their set. On
# photographs of four parts, files encoded again at quality 50, at half the size or with noise of
# six grey levels lie at 0.032 at most, and the two closest different ones at 0.040: one place of a
# spindle under a fixed camera, a day apart.
NEAR = 0.035
# The typical distance is a quantile of that of all pairs: most pairs are none of one burst.
_TYPICAL = 0.9
_MOST_COMPARED = 500
_BLOCK = 1024


def glance(images: Tensor) -> Tensor:
    """What is kept of images ``[B,3,H,W]`` in 0..1: ``[B,SIDE*SIDE+1]`` float32, the grey means of
    SIDE x SIDE fields, and the standard deviation of all values. Not finite where an image is
    not."""
    images = images.float()
    grey = F.adaptive_avg_pool2d(images.mean(1, keepdim=True), SIDE).flatten(1)
    return torch.cat([grey, images.flatten(1).std(1, unbiased=False)[:, None]], 1)


def digest(image: Tensor) -> str:
    """16 hexadecimal digits of SHA-256 of the pixels of an image ``[3,H,W]`` as a model sees them:
    resized, in 8 bits. ``image`` is uint8, or floating point in 0..1, which is rounded.

    Files that decode to the same pixels have the same, whatever their format, name or metadata.
    """
    if image.is_floating_point():
        image = image.detach().float().mul(255).round().clamp(0, 255).to(torch.uint8)
    pixels = image.detach().cpu().contiguous().numpy().tobytes()
    return hashlib.sha256(pixels).hexdigest()[:16]


def pictures(glances: Tensor) -> Tensor:
    """Small pictures ``[N,SIDE*SIDE]`` without brightness and contrast: mean 0, standard deviation
    1; 0 for one of a single grey."""
    grey = glances[:, :-1]
    grey = grey - grey.mean(1, keepdim=True)
    spread = grey.std(1, unbiased=False, keepdim=True)
    return torch.where(spread > STILL, grey / spread.clamp_min(STILL), 0.0)


def distances(some: Tensor, others: Tensor) -> Tensor:
    """Root mean square differences ``[N,M]`` between pictures ``[N,D]`` and ``[M,D]``."""
    return torch.cdist(some, others, compute_mode="donot_use_mm_for_euclid_dist") / SIDE


def typical_distance(small: Tensor) -> float:
    """How far the pictures ``[N,D]`` of one set lie apart; 0 for fewer than two."""
    if len(small) < 2:
        return 0.0
    step = -(-len(small) // _MOST_COMPARED)
    some = small[::step]
    rows, columns = torch.triu_indices(len(some), len(some), 1)
    return float(distances(some, some)[rows, columns].quantile(_TYPICAL))


def group_twins(glances: Tensor) -> list[int]:
    """The number of each image's group, ``[N]``, counted from 0 in the order of their first images;
    twins share one.

    Whoever comes first leads a group, and those near enough to a leader belong to it: a slow drift
    does not join what is far apart.

    Args:
        glances: of :func:`glance`, ``[N,SIDE*SIDE+1]``.
    """
    small, grey = pictures(glances), glances[:, :-1]
    near = NEAR * typical_distance(small)
    # Where one burst is nearly the whole set, its own distances are the typical ones; its frames
    # are then known by showing one still scene, as parts before a fixed camera do not: the closest
    # two of 60 lie 0.7 grey levels apart. A set that is one still scene shows no other.
    some_move = len(grey) > 1 and bool((distances(grey[:1], grey) >= STILL).any())
    leaders, scenes = torch.empty_like(small), torch.empty_like(grey)
    groups: list[int] = []
    # Copies stay together, whoever has come to lead a group between them.
    known: dict[bytes, int] = {}
    count = 0
    for picture, scene, whole in zip(small, grey, glances, strict=True):
        same = whole.cpu().contiguous().numpy().tobytes()
        if same in known:
            groups.append(known[same])
            continue
        found = -1
        for start in range(0, count, _BLOCK):
            rows = slice(start, min(count, start + _BLOCK))
            gaps = distances(picture[None], leaders[rows])[0]
            least = int(gaps.argmin())
            still = some_move and bool(gaps[least] < NEAR)
            if still:
                still = bool(distances(scene[None], scenes[rows][least][None])[0, 0] < STILL)
            if gaps[least] <= near or still:
                found = start + least
                break
        if found < 0:
            leaders[count], scenes[count] = picture, scene
            found, count = count, count + 1
        groups.append(found)
        known[same] = found
    return groups


def members(groups: Sequence[int]) -> list[list[int]]:
    """The positions of the images of each group that has several."""
    found: dict[int, list[int]] = {}
    for position, group in enumerate(groups):
        found.setdefault(group, []).append(position)
    return [positions for positions in found.values() if len(positions) > 1]
