"""How the normal images were taken, for what is told of drift."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastalign.distributed import World
from fastalign.models.conditions import (
    LIGHT,
    POSE,
    conditions_of,
    normal_conditions,
    pose_of,
)
from fastalign.models.fitting.setting import Setting
from fastalign.models.fitting.source import ImageSource
from fastalign.models.rooms import Rooms, or_identity
from fastalign.models.view import NormalView
from fastalign.nn.registration.aligner import edge_size, search_size
from fastalign.nn.transfer import fetched

_FIGURES = len(LIGHT) + len(POSE)


class Kept(NamedTuple):
    """What a record keeps: the statistics, and the record of a :class:`NormalView`; None each:
    nothing."""

    conditions: dict[str, Any] | None
    view: dict[str, Any] | None


class NormalConditions:
    """Collects the figures of each normal image once, however often passes go over it."""

    def __init__(self, rooms: Rooms, setting: Setting) -> None:
        self._rooms, self._setting = rooms, setting
        self._rows: dict[int, Tensor] = {}
        self._edges: dict[int, Tensor] = {}
        # Warps of features say nothing of where a part lies.
        self._still = rooms.pose.aligner is None and rooms.pose.ica is None

    def add(
        self, source: ImageSource, positions: Tensor, aligned: Tensor, theta: Tensor | None
    ) -> None:
        """Take in a batch of ``source``, aligned, with all its warps composed, ``theta``."""
        train = self._setting.train
        offset = 0 if source is train else len(train)
        places = [offset + position for position in positions.tolist()]
        if all(place in self._rows for place in places):
            return
        if self._still:
            edges = NormalView.edges(aligned).half()
            self._edges.update(zip(places, edges, strict=True))
        theta = or_identity(theta, aligned)
        valid = self._rooms.maps.valid(theta)
        assert valid is not None
        found = conditions_of(aligned, valid, theta, self._rooms.pose.aspect)
        self._rows.update(zip(places, found, strict=True))

    def settle(self, world: World, coverage: dict[int, float]) -> Kept:
        """What a record keeps of the images that all processes have seen, of twins the first, in
        the order of their names, which is mostly that in which they were taken.

        Arguments:
            coverage: of each image by its place; empty without alignment.
        """
        view = self._look(world) if self._still else None
        own = torch.empty((len(self._rows), 1 + _FIGURES), dtype=torch.float64)
        if places := sorted(self._rows):
            own[:, 0] = torch.tensor(places, dtype=torch.float64)
            own[:, 1:] = fetched(torch.stack([self._rows[place] for place in places]))
        every = world.gather_rows(own, "how normal images were taken")
        rows = {int(row[0]): row[1:] for row in every}
        survey = self._setting.survey
        order = sorted(rows, key=lambda place: _natural(survey.known.names[place]))
        first: dict[int, int] = {}
        for place in order:
            first.setdefault(survey.groups[place], place)
        kept = list(first.values())
        if not kept:
            return Kept(None, None)
        known = [coverage[place] for place in kept] if coverage else None
        table = torch.stack([rows[place] for place in kept])
        found = normal_conditions(table, known, self._rooms.config.image_size)
        return Kept(found, None if found is None or view is None else view.record())

    def _look(self, world: World) -> NormalView:
        """The view of all images of all processes, and the poses of the own ones against it."""
        device = self._rooms.density.device
        height, width = edge_size(search_size(self._rooms.config.image_size))
        sums = torch.zeros((3, height, width), dtype=torch.float64, device=device)
        for kept in self._edges.values():
            edges = kept.double()
            sums += torch.stack([torch.ones_like(edges), edges, edges.square()])
        number, total, squares = world.sum_(sums, "the edges of normal images")
        aspect = self._rooms.pose.aspect
        view = NormalView.of_sums(number.clamp_min(1), total, squares, aspect)
        for place, kept in self._edges.items():
            pose = pose_of(view.find(kept[None]), aspect)[0]
            self._rows[place] = torch.cat([self._rows[place][: len(LIGHT)], pose])
        self._edges.clear()
        return view


def _natural(name: str) -> list[tuple[int, str]]:
    """A key by which 9 comes before 10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
