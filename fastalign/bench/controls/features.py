"""What all controls judge: the stages of our backbone, of images as they are or as our model has
aligned them, and the map that a judgement becomes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from fastalign import FYD
from fastalign.ops import affine, warp_affine


@dataclass(frozen=True)
class Seen:
    """Images as a control sees them.

    Attributes:
        stages: feature maps ``[B,C_i,h_i,w_i]``, the finest first.
        theta: ``[B,2,3]``, by which they were aligned; None: not at all.
        valid: bool ``[B,h_0,w_0]``, which locations came from inside the images; None: all.
    """

    stages: list[Tensor]
    theta: Tensor | None = None
    valid: Tensor | None = None

    def __getitem__(self, images: slice | Tensor) -> Seen:
        """Some of the images."""
        return Seen(
            [stage[images] for stage in self.stages],
            None if self.theta is None else self.theta[images],
            None if self.valid is None else self.valid[images],
        )

    def __len__(self) -> int:
        return len(self.stages[0])

    def batches(self, size: int) -> Iterator[Seen]:
        """The images, so many at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]


class Judged(NamedTuple):
    """What a control says of images.

    Attributes:
        distance: ``[B,h,w]``.
        score: ``[B]``; None: the largest value of the map.
        support: bool ``[h,w]``, where the control can judge; None: everywhere.
    """

    distance: Tensor
    score: Tensor | None = None
    support: Tensor | None = None


class Control(Protocol):
    """A way to judge features.

    Attributes:
        aligned: it is given images as our model has aligned them.
        turns: turned copies of each training photograph that it learns from, the photograph
            itself among them.
    """

    aligned: bool
    turns: int

    def fit(self, batches: Iterable[Seen], images: int) -> None:
        """Learn from batches of good images, ``images`` of them in all."""
        ...

    def score(self, seen: Seen) -> Judged: ...

    def stored(self) -> list[Tensor]:
        """What a file of it would have to keep, besides the network."""
        ...


def see(model: FYD, images: Tensor, aligned: bool) -> Seen:
    """Images ``[B,3,H,W]`` as the network of ``model`` sees them, as they are or as its poses and
    feature-level warps align them."""
    pose = model.pose(images) if aligned else None
    if pose is not None:
        images = warp_affine(images, pose, padding_mode="border")
    if aligned:
        stages, theta = model.features.encode(images, pose)
    else:
        stages, theta = model.features.backbone(images), None
    return Seen(stages, theta, model.maps.valid(theta))


def joined(parts: Sequence[Seen]) -> Seen:
    """The images of several batches together."""
    theta = [part.theta for part in parts if part.theta is not None]
    valid = [part.valid for part in parts if part.valid is not None]
    return Seen(
        [torch.cat(stages) for stages in zip(*(part.stages for part in parts), strict=True)],
        torch.cat(theta) if theta else None,
        torch.cat(valid) if valid else None,
    )


def see_all(model: FYD, images: Tensor, aligned: bool, batch: int = 16) -> Seen:
    """As :func:`see`, so many images at a time, on the device of the model."""
    device = model.features.device
    return joined([see(model, part.to(device), aligned) for part in images.split(batch)])


def turned(images: Tensor, turns: int, aspect: float) -> Iterator[Tensor]:
    """Images ``[N,3,H,W]`` turned by each multiple of 1 / ``turns`` of a full turn about their
    middle, in true units (``aspect``: width over height), continued from the border."""
    for turn in range(turns):
        if turn == 0:
            yield images
            continue
        angle = torch.full((len(images), 1), 2 * math.pi * turn / turns, device=images.device)
        theta = affine.from_parameters(angle, "rotation", aspect)
        yield warp_affine(images, theta, padding_mode="border")


def map_of(model: FYD, seen: Seen, judged: Judged) -> Tensor:
    """Maps ``[B,H,W]`` in the frame of the images, upsampled and smoothed as ours are."""
    if seen.theta is not None and tuple(judged.distance.shape[1:]) != model.maps.size:
        raise ValueError(
            f"distances have shape {list(judged.distance.shape)}; those of aligned images lie on "
            f"the grid of the finest stage, {list(model.maps.size)}"
        )
    return model.maps.map_from(judged.distance, seen.theta, judged.support)[0]


# Embeddings --------------------------------------------------------------------------------------


def concatenated(stages: Sequence[Tensor], mode: str = "bilinear") -> Tensor:
    """All channels on the grid of the first of these stages, ``[B,C,h,w]``."""
    size = stages[0].shape[2:]
    options = {} if mode == "nearest" else {"align_corners": False}
    finer = [F.interpolate(stage, size, mode=mode, **options) for stage in stages[1:]]
    return torch.cat([stages[0], *finer], 1)


def patches(stages: Sequence[Tensor]) -> Tensor:
    """PatchCore's locally aware patches ``[B,C,h,w]``: all stages but the finest, each averaged
    over 3 x 3, on the grid of the finest of them; a single stage is taken itself."""
    used = stages[1:] or stages
    return concatenated([F.avg_pool2d(stage, 3, 1, 1) for stage in used])
