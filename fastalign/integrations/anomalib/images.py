"""The normal images that a run of the trainer hands over, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from fastalign.data import glance, group_twins, load_image, validation_indices
from fastalign.errors import InputError

# What interpolation in floating point may leave of 0..1.
_ROUNDING = 1e-3
_LOOKED_AT = 5


class NormalImages:
    """Images ``[3,H,W]`` float32 in 0..1, rounded to 8 bits, on the CPU, with their names."""

    def __init__(self) -> None:
        self._images: list[Tensor] = []
        self._names: list[str] = []

    def add(self, images: Tensor, names: Sequence[str] | None) -> None:
        """Take in a batch ``[B,3,H,W]``; without names the order of arrival stands in for them.

        Raises:
            InputError: values outside 0..1.
        """
        least, most = (float(bound) for bound in images.aminmax())
        if not (-_ROUNDING <= least and most <= 1 + _ROUNDING):
            raise InputError(
                f"Fyd: training images span {least:.3g} to {most:.3g}, expected 0..1: the model "
                "normalises by itself. Leave Normalize out of the pre-processor and out of the "
                "data module's augmentations."
            )
        first = len(self._images)
        # Rounded as fastalign.data.prepare does it, so that the fit sees what `fastalign fit` sees.
        pixels = images.detach().to("cpu", torch.float32).clamp(0, 1).mul(255).round().div(255)
        self._images += pixels.unbind()
        self._names += names or [f"{first + index:08d}" for index in range(len(images))]

    @property
    def aspect(self) -> float | None:
        """Width over height of the photographs, the median of the first; None: no files.

        From the files, because anomalib's data modules resize to the model's size themselves.
        """
        files = [path for path in map(Path, sorted(self._names)) if path.is_file()]
        shapes = [load_image(path).shape for path in files[:_LOOKED_AT]]
        return median(shape[1] / shape[0] for shape in shapes) if shapes else None

    def split(self, fraction: float, seed: int) -> tuple[list[Tensor], list[Tensor]]:
        """Training and validation images, each in the order of their names.

        So neither depends on the order in which the data loader gave them. The choice is that of
        :func:`fastalign.data.split_validation`, twins together.
        """
        places = [Path(name).as_posix() for name in self._names]
        order = sorted(range(len(places)), key=places.__getitem__)
        images = [self._images[index] for index in order]
        groups = group_twins(torch.cat([glance(image[None]) for image in images]))
        chosen = validation_indices(len(images), fraction, seed, groups)
        return (
            [image for index, image in enumerate(images) if index not in chosen],
            [images[index] for index in sorted(chosen)],
        )
