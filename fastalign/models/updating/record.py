"""What is known of a model that has taken in more photographs."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastalign.data.twins import pictures
from fastalign.models.config import FYDConfig
from fastalign.models.known import KnownImages
from fastalign.models.normal import NormalDistances
from fastalign.models.record import FitRecord
from fastalign.models.thresholds import kept_scores, limit_of, one_of_twins
from fastalign.models.updating.choice import Choice
from fastalign.models.updating.joining import Joined

_ADDED = re.compile(r", (\d+) of them by updates$")


def record_then(
    record: FitRecord, config: FYDConfig, choice: Choice, joined: Joined
) -> tuple[FitRecord, float]:
    """The record then, and the threshold by the rule of the fit; NaN where there is none, or
    nothing that tells of one.

    Args:
        record: of the whole part, before.
        config: of the model.
        choice: photographs that were taken in.
        joined: the density with them.
    """
    own = [place for place, at in enumerate(joined.turns) if at not in choice.near]
    groups = [joined.distances.groups[place] for place in own]
    distinct, _ = one_of_twins(joined.scores[own], groups)
    value, normal, source = math.nan, record.normal_scores, record.threshold_source
    if not normal:
        choice.warnings.append(
            "the model keeps no scores of normal photographs, so its thresholds stay as they are"
        )
    elif len(distinct):
        together, of = _together(normal, distinct.tolist())
        value, rule = limit_of(together, config.threshold_quantile)
        normal = {"of": of, "scores": kept_scores(together)}
        source = f"{rule} of {of}"
    images = dict(record.images or {})
    images["update"] = images.get("update", 0) + len(choice.chosen)
    found = replace(
        record,
        images=images,
        normal_scores=normal,
        threshold_source=source,
        normal_whole=_larger(record.normal_whole, joined.wholes),
        normal_distances=_distances(record, joined, own),
        known_images=_known(record, choice),
        photographs=_sizes(record, choice),
    )
    return found, value


def _together(normal: Any, new: Sequence[float]) -> tuple[list[float], str]:
    """Stored scores and new ones, and what images they are of, in words."""
    stored = [float(score) for score in normal["scores"]]
    of = re.match(r"(\d+) (.*)", normal["of"])
    number, words = (int(of[1]), of[2]) if of else (len(stored), "normal images")
    earlier = _ADDED.search(words)
    added = len(new) + (int(earlier[1]) if earlier else 0)
    words = _ADDED.sub("", words)
    # Of many scores a share is kept, and stands for all of them.
    together = [*stored * max(1, round(number / len(stored))), *new]
    return together, f"{number + len(new)} {words}, {added} of them by updates"


def _larger(stored: Any, wholes: Tensor) -> dict[str, float] | None:
    known = wholes[wholes.isfinite()]
    if stored is None or not len(known):
        return None if stored is None else dict(stored)
    return {**stored, "distance": max(float(stored["distance"]), float(known.max()))}


def _distances(record: FitRecord, joined: Joined, own: Sequence[int]) -> dict[str, Any] | None:
    """The distances that are kept, with those of the images at the places ``own``; None where they
    are too many."""
    if record.normal_distances is None:
        return None
    old, new = NormalDistances.from_record(record.normal_distances), joined.distances
    if not NormalDistances.fits(len(old.distance) + len(own), joined.gaussians.size):
        return None

    def both(before: Tensor | None, more: Tensor | None) -> Tensor | None:
        return None if before is None or more is None else torch.cat([before, more[list(own)]])

    first = max(old.groups, default=-1) + 1
    groups = [*old.groups, *(first + new.groups[place] for place in own)]
    distance = torch.cat([old.distance, new.distance[list(own)]])
    theta, poses = both(old.theta, new.theta), both(old.poses, new.poses)
    return NormalDistances(distance, theta, groups, poses, old.kind, old.alone).record()


def _known(record: FitRecord, choice: Choice) -> dict[str, Any] | None:
    if record.known_images is None:
        return None
    known = KnownImages.from_record(record.known_images)
    names = [choice.source.name(position).replace("\\", "/") for position in choice.chosen]
    digests = [choice.digests[position] for position in choice.chosen]
    small = pictures(choice.glances[choice.chosen]).half()
    return KnownImages(
        [*known.names, *names],
        # An earlier version kept none, and their places are those of the names.
        [*known.digests, *digests] if known.digests else [],
        torch.cat([known.pictures, small]),
        known.typical,
    ).record()


def _sizes(record: FitRecord, choice: Choice) -> dict[str, Any] | None:
    stored, sizes = record.photographs, choice.source.sizes()
    if stored is None or not sizes:
        return None if stored is None else dict(stored)
    widths, aspects = [w for w, _ in sizes], [w / h for w, h in sizes]
    return {
        **stored,
        "width": [min(stored["width"][0], *widths), max(stored["width"][1], *widths)],
        "aspect": [min(stored["aspect"][0], *aspects), max(stored["aspect"][1], *aspects)],
    }
