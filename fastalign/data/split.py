"""Keeping some of the good training images apart, to set thresholds and judge alignment by."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence

from fastalign import words
from fastalign.data.samples import GOOD, Sample
from fastalign.errors import DataWarning, InputError
from fastalign.numeric import real_number


def split_validation(
    samples: Sequence[Sample], fraction: float, seed: int, groups: Sequence[int] | None = None
) -> tuple[list[Sample], list[Sample]]:
    """Split normal training images into training and validation images.

    The choice depends on ``seed``, the number of images and their order by path, so not on the
    order in which a disk lists them, nor on where the folder lies, nor on the version of a random
    generator. ``round(fraction * n)`` images go to validation, but at least one and so many that
    two remain to train on: of one or two images none are kept apart, and a warning says so. Where
    some images are twins, this holds for groups of twins in place of images, and none is torn
    apart.

    Args:
        samples: good training images, in any order.
        fraction: share for validation, ``0 <= fraction < 1``; 0 keeps none apart.
        seed: any integer.
        groups: the number of each sample's group, as :func:`fastalign.data.group_twins` gives
            them; None: each is one of its own.

    Returns:
        ``(train, validation)``, both sorted by path.

    Raises:
        ConfigError: ``fraction`` is out of range.
        InputError: no samples, or one that is not a normal training image.
    """
    fraction = real_number("validation fraction", fraction, 0, 1, open_ended=True)
    if not samples:
        raise InputError("no training images: give at least one image of a good part.")
    for sample in samples:
        if sample.label != GOOD or sample.split != "train":
            raise InputError(
                f"{sample.path}: label {sample.label}, split {sample.split!r}; validation images "
                "are taken from normal training images only."
            )
    order = sorted(range(len(samples)), key=lambda index: samples[index].path.as_posix())
    sorted_groups = None if groups is None else [groups[index] for index in order]
    chosen = validation_indices(len(order), fraction, seed, sorted_groups)
    train = [samples[index] for place, index in enumerate(order) if place not in chosen]
    return train, [samples[order[place]] for place in sorted(chosen)]


def validation_indices(
    count: int, fraction: float, seed: int, groups: Sequence[int] | None = None
) -> set[int]:
    """The choice of :func:`split_validation` among ``count`` images in the order of their paths,
    with their groups in that order.

    Raises:
        ConfigError: ``fraction`` is out of range.
    """
    if groups is not None:
        # By their first images, whatever their numbers are.
        places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
        picked = validation_indices(len(places), fraction, seed)
        return {index for index, group in enumerate(groups) if places[group] in picked}
    fraction = real_number("validation fraction", fraction, 0, 1, open_ended=True)
    if fraction == 0:
        return set()
    kept_apart = min(max(1, round(fraction * count)), max(0, count - 2))
    if kept_apart == 0:
        warnings.warn(
            f"{words.count(count, 'good image')} only: none kept apart for validation, so there "
            "will be no threshold from normal images; give at least 3, better 20.",
            DataWarning,
            stacklevel=3,
        )
        return set()
    return set(sorted(range(count), key=lambda index: _rank(seed, index))[:kept_apart])


def _rank(seed: int, index: int) -> bytes:
    return hashlib.sha256(f"{seed}:{index}".encode()).digest()
