"""Images as the density sees them, as often as the plan of a fit needs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from fastalign.models.fitting.conditions import NormalConditions
from fastalign.models.fitting.gaussians import GaussianFit
from fastalign.models.fitting.setting import Setting
from fastalign.models.fitting.source import ImageSource
from fastalign.models.fitting.views import NormalViews
from fastalign.models.rooms import Rooms, warp


@dataclass(frozen=True)
class Described:
    """Images as the density sees them: features ``[B,C,h,w]``, the warps, where they are valid."""

    features: Tensor
    theta: Tensor | None
    valid: Tensor | None

    def rows(self, rows: slice) -> Described:
        """Some rows of the maps; copies, since parts would keep the whole in memory."""
        valid = None if self.valid is None else self.valid[:, rows].clone()
        return Described(self.features[:, :, rows].contiguous(), self.theta, valid)


class Passes:
    """Passes over images, as often as the plan needs them."""

    def __init__(self, rooms: Rooms, setting: Setting) -> None:
        self.rooms, self.setting = rooms, setting
        self.progress, self.world, self.plan = setting.progress, setting.world, setting.plan
        self._told: set[str] = set()
        self.views = NormalViews(rooms, setting)
        self.conditions = NormalConditions(rooms, setting)

    def add(self, fit: GaussianFit, source: ImageSource) -> None:
        """All images of ``source`` into the band that ``fit`` has open."""
        share = self.world.share(len(source))
        self.tell("fitting", self.plan.bands * len(share), source)
        fit.pass_over(share.start)
        with self.world.together("fitting"):
            for encoded in self.encode(source, share):
                fit.add(encoded.features, encoded.valid)
        fit.pass_over(len(source) - share.stop)

    def tell(self, stage: str, total: int, source: ImageSource | None = None) -> None:
        """Start a stage of the progress, once for all bands."""
        key = f"{stage} {id(source)}"
        if key not in self._told:
            self._told.add(key)
            self.progress.start(stage, total)

    def encode(
        self, source: ImageSource, indices: Sequence[int] | None = None
    ) -> Iterator[Described]:
        """The images, so many at a time as the plan says."""
        rooms = self.rooms
        for images, positions in source.batches(self.plan.images, indices):
            found = rooms.pose.locate(images)
            aligned = warp(images, found.theta)
            stages, theta = rooms.features.extract(aligned, found.theta)
            valid = rooms.maps.valid(theta)
            self.views.add(source, positions, images, found, theta)
            self.conditions.add(source, positions, aligned, theta)
            yield Described(rooms.density.describe(stages), theta, valid)
            self.progress.advance(len(images))


def one_by_one(
    course: Passes, *sources: tuple[ImageSource, Sequence[int] | None]
) -> Iterator[Described]:
    """The images of some sources, of each those of its indices (None: all)."""
    for source, indices in sources:
        for encoded in course.encode(source, indices):
            for index in range(len(encoded.features)):
                one = slice(index, index + 1)
                yield Described(
                    encoded.features[one],
                    None if encoded.theta is None else encoded.theta[one],
                    None if encoded.valid is None else encoded.valid[one],
                )
