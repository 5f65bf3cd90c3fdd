"""How normal images are covered and how well they agree with the template, for what is asked of
others."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fastalign.distributed import World
from fastalign.models.evidence import Evidence, Usual, coverage_of
from fastalign.models.fitting.setting import Setting
from fastalign.models.fitting.source import ImageSource
from fastalign.models.pose import Located
from fastalign.models.rooms import Rooms
from fastalign.nn.registration.refiner import GaussNewtonRefiner
from fastalign.nn.transfer import fetched, sent
from fastalign.ops import affine, warp_affine

# Images whose coverage is worked out at once.
_BATCH = 64


class Views(NamedTuple):
    """What is asked of other images, the largest residual of a normal one, -inf without, and the
    poses of all normal images, ``[N,2,3]`` on the CPU; None: they are not aligned; and the share of
    the part that each normal image covers, by its place."""

    evidence: Evidence
    largest_residual: float
    poses: Tensor | None
    coverage: dict[int, float]


class NormalViews:
    """Collects the pose of each normal image once, however often passes go over it.

    A template agrees better with the images that it is the mean of than with others. So each of
    them is compared with the mean of the others: a fold for each image, in closed form.
    """

    def __init__(self, rooms: Rooms, setting: Setting) -> None:
        self._rooms, self._train = rooms, setting.train
        self._members = frozenset(setting.judged)
        self._rows: dict[int, Tensor] = {}

    def add(
        self,
        source: ImageSource,
        positions: Tensor,
        images: Tensor,
        found: Located,
        theta: Tensor | None,
    ) -> None:
        """Take in a batch of ``source`` with the poses of its images, and all its warps composed,
        ``theta``; where there are none there is nothing to know."""
        if theta is None:
            return
        offset = 0 if source is self._train else len(self._train)
        places = [offset + position for position in positions.tolist()]
        if all(place in self._rows for place in places):
            return
        unknown = torch.full((len(images),), torch.nan, device=images.device)
        residual = unknown if found.residual is None else found.residual
        alone = residual
        template = self._rooms.pose.reference
        if template is not None and found.theta is not None:
            own = self._without_itself(template, self._rooms.pose.edges(images), found.theta)
            inside = torch.tensor([place in self._members for place in places])
            alone = torch.where(sent(inside, own.device), own, residual)
        columns = [residual[:, None], alone[:, None], theta.flatten(1)]
        rows = torch.cat([column.detach().double() for column in columns], 1)
        self._rows.update(zip(places, rows, strict=True))

    def _without_itself(self, template: GaussNewtonRefiner, edges: Tensor, theta: Tensor) -> Tensor:
        """Residuals ``[B]`` of edges ``[B,1,h,w]`` against the mean of the other members."""
        size = (template.template.shape[0], template.template.shape[1])
        number = len(self._members)
        if number < 2:
            return torch.full((len(edges),), torch.nan, device=edges.device)
        aligned = warp_affine(edges, theta, size=size, padding_mode="border").squeeze(1)
        valid = affine.valid_mask(theta, size, margin=1.0).to(aligned.dtype)
        others = (number * template.template - valid * aligned) / (number - valid)
        weight = valid * template.weight
        weight = weight / weight.sum((1, 2), keepdim=True).clamp_min(1e-12)

        def centred(maps: Tensor) -> Tensor:
            return maps - (weight * maps).sum((1, 2), keepdim=True)

        def together(some: Tensor, more: Tensor) -> Tensor:
            return (weight * some * more).sum((1, 2))

        own, rest = centred(aligned), centred(others)
        spread = (together(own, own) * together(rest, rest)).clamp_min(1e-24).sqrt()
        return 1 - together(own, rest) / spread

    def settle(self, world: World) -> Views:
        """What all processes have seen, once the density is fitted."""
        own = torch.empty((len(self._rows), 9), dtype=torch.float64)
        places = sorted(self._rows)
        if places:
            own[:, 0] = torch.tensor(places, dtype=torch.float64)
            own[:, 1:] = fetched(torch.stack([self._rows[place] for place in places]))
        every = world.gather_rows(own, "the poses of normal images")
        # The first process may have seen images of the others, where all take turns.
        first = {int(row[0]): position for position, row in reversed(list(enumerate(every)))}
        rows = every[list(first.values())]
        coverage: list[float] = []
        room, support = self._rooms.maps, self._rooms.density.support
        for theta in rows[:, 3:].float().split(_BATCH):
            theta = theta.view(-1, 2, 3).to(self._rooms.density.device)
            coverage += coverage_of(room.valid(theta), support, theta).tolist()
        known = [value for value in rows[:, 2].tolist() if math.isfinite(value)]
        residuals = [value for value in rows[:, 1].tolist() if math.isfinite(value)]
        evidence = Evidence(Usual.of_coverage(coverage), Usual.of_residuals(known))
        poses = rows[:, 3:].float().reshape(-1, 2, 3) if len(rows) else None
        covered = dict(zip(first, coverage, strict=True))
        return Views(evidence, max(residuals, default=-math.inf), poses, covered)
