"""A look at the normal images before a fit: what they cannot teach, and which of them are twins."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastalign.data import group_twins
from fastalign.data.twins import (
    NO_CONTENT,
    STILL,
    distances,
    members,
    pictures,
    typical_distance,
)
from fastalign.errors import InputError
from fastalign.models.fitting.source import ImageSource
from fastalign.models.known import KnownImages
from fastalign.models.progress import Progress
from fastalign.words import agree, count, part_of

# With fewer photographs than this, all limits of the normal are guesses.
FEW = 20
_NAMED = 3
_GROUPS = 10
# Images that are compared with all others, to see whether most show one still scene.
_LOOKED_AT = 64


@dataclass(frozen=True)
class Survey:
    """What is known of the normal images of a fit, those to train on first.

    Attributes:
        train: number of training images; the others are validation images.
        groups: the number of each image's group of twins.
        warnings: what the user has to know, in sentences.
        known: what is kept of the images, by which they are known again.
    """

    train: int
    groups: list[int]
    warnings: list[str]
    known: KnownImages

    def distinct(self, end: int | None = None) -> int:
        """How many of the images (up to ``end``) are no twins of each other."""
        return len(set(self.groups[:end]))

    def distinct_of(self, positions: Sequence[int]) -> int:
        """How many of the images at these positions are no twins of each other."""
        return len({self.groups[position] for position in positions})

    @property
    def held_out(self) -> list[int]:
        """Positions of the validation images that are no twins of a training image."""
        learned = set(self.groups[: self.train])
        return [p for p in range(self.train, len(self.groups)) if self.groups[p] not in learned]


def look_at(train: ImageSource, validation: ImageSource | None, progress: Progress) -> Survey:
    """Look at all images once.

    Raises:
        InputError: values that are not finite; images that show nothing, or no difference.
    """
    sources = [train] if validation is None else [train, validation]
    parts = [source.glances(progress) for source in sources]
    glances = torch.cat(parts)
    paths = [source.name(index) for source in sources for index in range(len(source))]
    lost = [path for path, seen in zip(paths, glances, strict=True) if not seen.isfinite().all()]
    if lost:
        raise InputError(
            f"{_listed(lost)}: values that are NaN or infinite; mend the images or leave them out."
        )
    warnings = _check_content(paths, parts[0], glances)
    groups = group_twins(glances)
    small = pictures(glances)
    first = {group: position for position, group in reversed(list(enumerate(groups)))}
    typical = typical_distance(small[sorted(first.values())])
    names = _without_common(paths)
    digests = [digest for source in sources for digest in source.digests()]
    warnings += [*_about_copies(names, digests), *_about_twins(names, groups, digests)]
    known = KnownImages(names, digests, small.half(), typical)
    return Survey(len(train), groups, warnings, known)


def _without_common(paths: list[str]) -> list[str]:
    """The paths without the folder that all of them have in common."""
    places = [path.replace("\\", "/") for path in paths]
    folders = [place.rpartition("/")[0] for place in places]
    if not all(folders):
        return places
    common = os.path.commonpath(folders).replace("\\", "/")
    return [place[len(common) :].lstrip("/") for place in places]


def _check_content(paths: list[str], train: Tensor, glances: Tensor) -> list[str]:
    empty = [path for path, seen in zip(paths, glances, strict=True) if seen[-1] < NO_CONTENT]
    if len(empty) == len(paths):
        raise InputError(
            f"the images to learn from show nothing: {_listed(empty)} and all others are of a "
            "single grey or black. Give photographs of good parts; where they look right in a "
            "viewer, their values may span a small part of the file's range."
        )
    found = []
    if empty:
        found.append(
            f"{part_of(len(empty), len(paths), 'image')} to learn from {agree(len(empty), 'are')} "
            f"of a single grey, with nothing to see: {_listed(empty)}; take them out, or defects "
            "that hide the part are normal."
        )
    spread = (train - train[0]).abs()
    if len(train) > 1 and not spread.any():
        raise InputError(
            f"the {len(train)} images to learn from show no difference: {_listed(paths)} are "
            "copies of one. What is normal is learned from differences: photograph several good "
            "parts."
        )
    still = _still_scene(train)
    if len(train) > 1 and (still.all() or still.sum() > max(2, len(train) // 2)):
        images = [path for path, alike in zip(paths, still.tolist(), strict=False) if alike]
        which = f"the {len(train)}" if still.all() else f"{len(images)} of {len(train)}"
        found.append(
            f"{which} images to learn from hardly differ (by less than half a grey level once "
            f"noise is averaged out): {_listed(images)}. They show one part that lay still, or the "
            "camera repeats a frame; other good parts will be called anomalies. Photograph "
            "several good parts."
        )
    return found


def _still_scene(glances: Tensor) -> Tensor:
    """Which images ``[N]`` show the same still scene: those close to one of them, the one that has
    most so close."""
    grey = glances[:, :-1]
    some = grey[:: -(-len(grey) // _LOOKED_AT)]
    close = distances(some, grey) < STILL
    return close[close.sum(1).argmax()]


def _about_copies(names: list[str], digests: list[str]) -> list[str]:
    """What to say of images whose pixels are the same."""
    number = {digest: place for place, digest in enumerate(dict.fromkeys(digests))}
    several = members([number[digest] for digest in digests])
    copies = sum(len(group) - 1 for group in several)
    return _about(copies, "copies of others, pixel by pixel", names, several)


def _about_twins(names: list[str], groups: list[int], digests: list[str]) -> list[str]:
    """What to say of images that are nearly copies."""
    several = [group for group in members(groups) if len({digests[at] for at in group}) > 1]
    return _about(len(set(digests)) - len(set(groups)), "nearly what others show", names, several)


def _about(number: int, what: str, names: list[str], groups: list[list[int]]) -> list[str]:
    if not number:
        return []
    return [
        f"{part_of(number, len(names), 'image', 'are')} {what}: {_examples(names, groups)}. They "
        "count as one where the thresholds are set; take them out, since the model cannot learn "
        "from them."
    ]


def _examples(names: list[str], groups: list[list[int]]) -> str:
    """Names of the images of some groups, and how many more there are."""
    shown = []
    for group in groups[:_GROUPS]:
        more = "" if len(group) <= _NAMED else f" and {len(group) - _NAMED} more"
        shown.append(" = ".join(names[place] for place in group[:_NAMED]) + more)
    left = "" if len(groups) <= _GROUPS else f"; and {count(len(groups) - _GROUPS, 'more group')}"
    return "; ".join(shown) + left


def few_images(distinct: int, scores: int) -> str | None:
    """What fewer than 20 different images mean, in a sentence; None: they are enough."""
    if distinct >= FEW:
        return None
    meaning = (
        f"the thresholds rest on {count(scores, 'score')}, high and far apart when so little is "
        "known of what is normal: defects may stay below them without a word"
        if scores
        else "little is known of what is normal"
    )
    return (
        f"{count(distinct, 'different image')} of good parts only, fewer than {FEW}: {meaning}. "
        f"Give {FEW} or more, and look at the scores of some defects before you rely on a verdict."
    )


def _listed(paths: Sequence[str]) -> str:
    more = "" if len(paths) <= _NAMED else f" and {len(paths) - _NAMED} more"
    return ", ".join(paths[:_NAMED]) + more
