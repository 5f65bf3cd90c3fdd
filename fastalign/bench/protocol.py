"""Images of a category at one size, with random poses if asked for, and the figures of maps."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastalign.data import Sample, load_image, load_masks, open_category, prepare, split_validation
from fastalign.metrics import PixelMetrics, image_metrics
from fastalign.ops import affine, warp_affine

FIGURES = ("image_auroc", "pixel_auroc", "aupro_30")


@dataclass(frozen=True)
class Jitter:
    """Random pose of every photograph, training and test: uniform rotation up to ``degrees`` and
    shift up to ``shift`` of each side, at the photograph's own size, continued from the border."""

    degrees: float = 0.0
    shift: float = 0.0

    @property
    def label(self) -> str:
        if not self.degrees and not self.shift:
            return "as is"
        return f"±{self.degrees:g}°, ±{100 * self.shift:g} %"

    def pose(self, generator: torch.Generator, aspect: float) -> Tensor | None:
        if not self.degrees and not self.shift:
            return None
        draw = 2 * torch.rand(3, generator=generator) - 1
        bound = torch.tensor([math.radians(self.degrees), 2 * self.shift, 2 * self.shift])
        return affine.from_parameters((draw * bound)[None], "rotation_translation", aspect)


@dataclass
class Images:
    """A category at one size and jitter: images ``[N,3,H,W]``, labels, masks ``[N,H,W]`` bool."""

    train: Tensor
    validation: Tensor
    test: Tensor
    labels: np.ndarray
    masks: np.ndarray
    aspect: float


def read_category(
    path: Path, size: tuple[int, int], jitter: Jitter, seed: int, validation: float = 0.1
) -> Images:
    """Read and jitter a category; the validation images are those of the command line's split.

    The pose of a photograph depends on the seed and its place in the folder alone, not on which
    photographs are there besides or how they are split."""
    category = open_category(path)
    training, kept = split_validation(category.train, validation, seed)
    aspects: list[float] = []

    def read(sample: Sample) -> tuple[Tensor, np.ndarray]:
        photograph = load_image(sample.path)
        height, width = photograph.shape[:2]
        aspects.append(width / height)
        mask = np.zeros((height, width), dtype=bool)
        if sample.mask_paths:
            mask = load_masks(sample.mask_paths, (height, width), image_path=sample.path)
        place = sample.path.relative_to(path).as_posix()
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {place}".encode()))
        theta = jitter.pose(generator, width / height)
        if theta is not None:
            planes = torch.from_numpy(photograph).permute(2, 0, 1)[None].float()
            moved = warp_affine(planes, theta, padding_mode="border").round()[0]
            photograph = moved.clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()
            plane = torch.from_numpy(mask)[None, None].float()
            mask = warp_affine(plane, theta, mode="nearest")[0, 0].numpy() > 0.5
        small = torch.from_numpy(mask)[None, None].float()
        small = torch.nn.functional.interpolate(small, size, mode="nearest")[0, 0]
        return prepare(photograph, size), small.numpy() > 0.5

    train = torch.stack([read(sample)[0] for sample in training])
    held_out = torch.stack([read(sample)[0] for sample in kept]) if kept else train[:0]
    test = [read(sample) for sample in category.test]
    return Images(
        train,
        held_out,
        torch.stack([image for image, _ in test]),
        np.array([sample.label for sample in category.test]),
        np.stack([mask for _, mask in test]),
        median(aspects),
    )


def scores_of(maps: Tensor) -> Tensor:
    """The largest value of each map ``[N,H,W]``, of what was compared. Every contestant is judged
    on every image: one that it refuses to judge, NaN all over, ranks above all others, since
    somebody has to look at it."""
    scores = maps.nan_to_num(nan=0.0).amax((1, 2))
    return torch.where(maps.isnan().flatten(1).all(1), scores.amax() + 1, scores)


def figures(scores: np.ndarray, maps: Iterable[Tensor], images: Images) -> dict[str, float]:
    """The figures of scores ``[N]`` and maps ``[H,W]`` of the test images. What was not compared,
    NaN, ranks lowest in a map; an image without a score ranks above all others, and so does all of
    a map without a value."""
    most = float(np.nanmax(scores, initial=0.0)) + 1
    scores = np.nan_to_num(scores, nan=most)
    pixels = PixelMetrics(tuple(images.masks.shape[1:]))
    for index, (scored, mask) in enumerate(zip(maps, images.masks, strict=True)):
        unknown = most if bool(scored.isnan().all()) else 0.0
        pixels.update(scored.nan_to_num(nan=unknown), mask, str(index))
    names = [str(index) for index in range(len(scores))]
    found: dict[str, Any] = {**image_metrics(scores, images.labels, names), **pixels.compute()}
    return {name: float(found[name]) for name in FIGURES}
