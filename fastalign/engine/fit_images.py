"""The images of a fit: read alike by all processes, and some kept apart for validation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fastalign.data import (
    Category,
    Depth,
    ImageDataset,
    Sample,
    SkippedFile,
    group_twins,
    settle_depth,
    split_validation,
)
from fastalign.engine.results import Skipped
from fastalign.models.progress import Progress

if TYPE_CHECKING:
    from fastalign.distributed import World
    from fastalign.models.config import FYDConfig

_CACHE_BYTES = 1 << 28


@dataclass(frozen=True)
class FitImages:
    """The images of a fit.

    Attributes:
        training: those that the model learns from.
        validation: those kept apart for the thresholds; None: none.
        depth: of 16-bit files that state none.
        skipped: the files that were left out as unreadable.
    """

    training: ImageDataset
    validation: ImageDataset | None
    depth: Depth
    skipped: list[Skipped]


def open_fit_images(
    world: World,
    category: Category,
    config: FYDConfig,
    *,
    seed: int,
    skip_bad: bool,
    validation_fraction: float,
    kept: bool,
    depth: Depth | None,
    progress: Progress,
) -> FitImages:
    """The training and validation images of a category, the same on all processes.

    Args:
        world: the processes that fit together.
        category: with its training images, and its own validation images where it has some.
        config: the model's configuration.
        seed: of the validation split.
        skip_bad: leave unreadable images out, where the default is an error.
        validation_fraction: share of the training images kept apart, where the category has no
            validation images of its own.
        kept: prepared images may stay in memory even where they are read but twice.
        depth: of 16-bit files that state none; None: as all images together show it.
        progress: told about the course.

    Raises:
        InputError: an image that cannot be read.
        ProcessError: another process of the group failed or did not answer in time.
    """
    training, validation = list(category.train), list(category.validation or ())
    if depth is None:
        photographs = [sample.path for sample in (*training, *validation)]
        depth = world.once(lambda: settle_depth(photographs), "looking at the depth of samples")
    # Where prepared images are read more than once or twice they are kept, if that takes little.
    held = 3 * math.prod(config.image_size) * len(training)
    often = config.align != "none" and config.epochs > 0
    cache = (often or kept) and held <= _CACHE_BYTES
    every = open_samples(world, training, config.image_size, skip_bad, cache, depth)
    train_set, validation_set = every, None
    if validation:
        validation_set = open_samples(world, validation, config.image_size, skip_bad, depth=depth)
    elif validation_fraction:
        apart = partial(keep_apart, every, validation_fraction, seed, progress)
        rest, held_out = world.once(apart, "keeping images apart")
        train_set, validation_set = every.subset(rest), every.subset(held_out) if held_out else None
    skipped = [
        Skipped(str(item.path), item.reason)
        for dataset in (every, validation_set)
        if dataset is not None
        for item in dataset.skipped
    ]
    return FitImages(train_set, validation_set, depth, skipped)


def keep_apart(
    dataset: ImageDataset, fraction: float, seed: int, progress: Progress
) -> tuple[list[int], list[int]]:
    """Positions of the training and the validation images that :func:`split_validation` makes of a
    data set, twins together."""
    if dataset.unseen:
        progress.start("looking at the photographs", dataset.unseen)
    groups = group_twins(dataset.glances(progress.advance))
    parts = split_validation(dataset.samples, fraction, seed, groups)
    place = {sample.path: index for index, sample in enumerate(dataset.samples)}
    train, validation = ([place[sample.path] for sample in part] for part in parts)
    return train, validation


def open_samples(
    world: World,
    samples: Sequence[Sample],
    size: tuple[int, int],
    skip_bad: bool,
    cache: bool = False,
    depth: Depth | None = None,
) -> ImageDataset:
    """The samples as a data set, the same on all processes whatever one of them cannot read."""
    skipped: list[SkippedFile] = []
    if skip_bad:

        def look() -> tuple[list[Sample], list[SkippedFile]]:
            looked = ImageDataset(samples, size, skip_bad=True, depth=depth)
            return looked.samples, looked.skipped

        samples, skipped = world.once(look, "looking for unreadable images")
    dataset = ImageDataset(samples, size, cache=cache, depth=depth)
    dataset.skipped = skipped
    return dataset
