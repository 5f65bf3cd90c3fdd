"""A control as a contestant: from images to maps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from fastalign import FYD, FYDConfig
from fastalign.bench.controls.features import Control, Seen, map_of, see, turned
from fastalign.nn.stages import STRIDES

_BATCH = 16


class Controlled:
    """A control with the network that its features come from, and with our model fitted before
    where it is given aligned images; its fit then counts as part of the control's.

    Arguments:
        control: that judges.
        size: height and width of the images.
        aspect: width over height of the photographs.
    """

    def __init__(self, control: Control, size: int, aspect: float = 1.0) -> None:
        align = "all" if control.aligned else "none"
        self.control = control
        # Controls judge on the grid of the finest stage.
        self.model = FYD(
            FYDConfig(image_size=(size, size), align=align, aspect=aspect, strides=STRIDES)
        )

    def learn(self, batches: Iterable[Tensor]) -> None:
        images = torch.cat(list(batches))
        if self.control.aligned:
            self.model.fit(images)
        with torch.inference_mode():
            self.control.fit(self._training(images), self.control.turns * len(images))

    def _training(self, images: Tensor) -> Iterator[Seen]:
        for part in images.split(_BATCH):
            for copy in turned(part, self.control.turns, self.model.aspect):
                yield see(self.model, copy, self.control.aligned)

    def score(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            seen = see(self.model, images, self.control.aligned)
            return map_of(self.model, seen, self.control.score(seen))

    def stored_bytes(self) -> int:
        """Of what the control keeps, and of the network."""
        network = self.model.features.backbone.state_dict().values()
        tensors = [*self.control.stored(), *network]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
