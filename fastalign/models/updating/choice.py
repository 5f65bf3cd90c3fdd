"""Which of the photographs that are given a density can take in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from fastalign.data import group_twins
from fastalign.errors import InputError
from fastalign.models.evidence import Evidence
from fastalign.models.fitting.source import ImageSource
from fastalign.models.known import KnownImages
from fastalign.models.record import FitRecord
from fastalign.words import none_of

if TYPE_CHECKING:
    from fastalign.models.detail import Detail


@dataclass
class Choice:
    """Photographs that are given.

    Attributes:
        source: all of them.
        glances, digests, groups: what they are known by, and the number of each one's group of
            twins.
        chosen: positions of those that are taken in.
        before: the score of each of these by the model as it is.
        near: of some of them the image of the fit that they nearly are.
        left_out: names and reasons of the others.
        warnings: what the user has to know, in sentences.
    """

    source: ImageSource
    glances: Tensor
    digests: list[str]
    groups: list[int]
    chosen: list[int] = field(default_factory=list)
    before: dict[int, float] = field(default_factory=dict)
    near: dict[int, str] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def choose(
    record: FitRecord, source: ImageSource, glances: Tensor, details: Iterator[tuple[int, Detail]]
) -> Choice:
    """Choose by what the model says of each photograph; those of the fit, copies and those that
    cannot be judged are left out.

    Raises:
        InputError: none can be taken in.
    """
    found = Choice(source, glances, source.digests(), group_twins(glances))
    known = _known(record, found.warnings)
    evidence = Evidence.from_record(record.evidence)
    seen: set[str] = set()
    for position, detail in details:
        name, reason = source.name(position), evidence.reason(detail, 0)
        digest, glance = found.digests[position], glances[position : position + 1]
        same = None if known is None else known.find(digest, glance)
        if same is not None and same.same:
            reason = f"the model was fitted on it: {same.name}"
        elif digest in seen:
            reason = "a copy of another one that is given, pixel by pixel"
        elif reason:
            reason = f"it cannot be judged: {reason}"
        elif same is not None:
            found.near[position] = same.name
        if reason:
            found.left_out.append((name, reason))
            continue
        seen.add(digest)
        found.chosen.append(position)
        found.before[position] = float(detail.score[0])
    if not found.chosen:
        name, reason = found.left_out[0]
        raise InputError(
            f"{none_of(len(found.left_out), 'photograph', 'can be taken in')}; {name}: {reason}."
        )
    return found


def _known(record: FitRecord, warnings: list[str]) -> KnownImages | None:
    if record.known_images is not None:
        return KnownImages.from_record(record.known_images)
    warnings.append(
        "the model's file does not say which photographs it was fitted on (an earlier version "
        "wrote it), so copies of them were not looked for"
    )
    return None
