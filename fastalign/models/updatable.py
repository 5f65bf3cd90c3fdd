"""A model that can take in more photographs after its fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastalign.errors import ConfigError
from fastalign.models.detail import Detail
from fastalign.models.fitting.source import ImageSource
from fastalign.models.interest import in_units_of
from fastalign.models.progress import NoProgress, Progress
from fastalign.models.regional import RegionalModel
from fastalign.models.thresholds import above
from fastalign.models.update import Taken, Update
from fastalign.models.updating import choose, update_rooms
from fastalign.nn.state import made_in_own_state

if TYPE_CHECKING:
    from fastalign.data import ImageDataset


class UpdatableModel(RegionalModel):
    """A model whose density takes in more photographs; arguments, attributes and errors are those
    of :class:`fastalign.models.room_model.RoomModel`."""

    @made_in_own_state
    def update(
        self,
        images: ImageDataset | Tensor | Sequence[Tensor],
        *,
        names: Sequence[str] | None = None,
        keep_threshold: bool = False,
        progress: Progress | None = None,
    ) -> Update:
        """Take more good photographs into the density, such as false alarms, without a new fit.

        Network, alignment and prior stay those of the fit; see :mod:`fastalign.models.updating`.
        Photographs that the model was fitted on, and those that it cannot judge, are left out.
        Thresholds are derived anew by the rule of the fit, from the scores that the model keeps and
        from each new photograph's by a density that has not seen it; what :meth:`set_threshold` has
        set stays. On an error the model is as it was.

        Arguments:
            images: as for :meth:`fit`.
            names: of tensors, by which the model knows them later; None: by their numbers.
            keep_threshold: leave the thresholds as they are, those of regions of interest too.
            progress: told about the course.

        Returns:
            What was taken in and left out, and what has changed.

        Raises:
            InputError: images that cannot be used, or none that can be taken in.
            ConfigError: not fitted; a covariance that is not positive definite; or regions of
                interest of a model that keeps no distances of normal images.
        """
        if not self.density.fitted:
            raise ConfigError("the model is not fitted: call fit() first, update() adds to it.")
        progress = progress or NoProgress()
        with torch.inference_mode(False), torch.no_grad(), self.as_in_a_fit():
            size, device = self.config.image_size, self.features.device
            source = ImageSource(images, size, device, "update", names)
            glances = source.glances(progress)
            given = self._details(source, range(len(source)))
            choice = choose(self.record, source, glances, given)
            before, earlier = self._limits(), self.record
            self.record = update_rooms(
                self.rooms, earlier, choice, self.roi, progress, keep_threshold=keep_threshold
            )
            self.replays.forget()
            taken = [
                Taken(
                    source.name(at),
                    choice.before[at],
                    float(detail.score[0]),
                    choice.near.get(at, ""),
                )
                for at, detail in self._details(source, choice.chosen)
            ]
        limits = self._limits()
        above_before, normal = above(earlier, before[0]) or (0, 0)
        above_after, _ = above(in_units_of(earlier, self.record), limits[0]) or (0, 0)
        return Update(
            taken,
            choice.left_out,
            before,
            limits,
            above_before,
            above_after,
            normal,
            choice.warnings,
        )

    def _limits(self) -> tuple[float, float]:
        return float(self.image_threshold), float(self.pixel_threshold)

    def _details(
        self, source: ImageSource, positions: Sequence[int]
    ) -> Iterator[tuple[int, Detail]]:
        for images, places in source.batches(1, list(positions)):
            yield int(places[0]), self.predict_detail(images)
