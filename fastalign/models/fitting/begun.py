"""What of an image's way through the network no step of training changes, worked out once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastalign.models.features import FeatureExtractor
from fastalign.models.fitting.source import ImageSource
from fastalign.models.rooms import warp
from fastalign.nn.registration.encoder import resize


class Begun:
    """Images up to the first warp that is trained, or through the whole network where none is:
    aligned by poses that stay, through stages that stay.

    Each image is worked out by itself when it is first asked for, so that what it gives depends on
    no batch, and an epoch on none before.

    Args:
        features: whose network it is.
        source: of the images.
        theta: their poses ``[N,2,3]``; None: as they are.
    """

    def __init__(
        self, features: FeatureExtractor, source: ImageSource, theta: Tensor | None
    ) -> None:
        self._features, self._source, self._theta = features, source, theta
        self._kept: dict[int, list[Tensor]] = {}

    @torch.no_grad()
    def of(self, indices: Sequence[int]) -> list[Tensor]:
        """What is begun of these images, ``[B,C,h,w]`` each."""
        if not indices:
            height, width = self._features.training_size
            none = torch.zeros(0, 3, height, width, device=self._features.device)
            return self._features.begin(none)
        missing = [index for index in indices if index not in self._kept]
        for image, position in self._source.batches(1, missing):
            index = int(position)
            image = resize(image, self._features.training_size)
            theta = None if self._theta is None else self._theta[index : index + 1]
            self._kept[index] = self._features.begin(warp(image, theta))
        rows = [self._kept[index] for index in indices]
        return [torch.cat(parts) for parts in zip(*rows, strict=True)]
