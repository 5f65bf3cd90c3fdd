"""Training images from a data set or from tensors, in batches, in any order, again and again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastalign.errors import InputError
from fastalign.models.progress import Progress
from fastalign.nn.transfer import sent
from fastalign.ops import checks

if TYPE_CHECKING:
    from fastalign.data import ImageDataset

_LOOKED_AT = 5


class ImageSource:
    """Images ``[3,H,W]`` in 0..1, float32, handed out in batches on a device.

    Arguments:
        images: an :class:`fastalign.data.ImageDataset`, a tensor ``[N,3,H,W]`` or a list of tensors
            ``[3,H,W]``.
        image_size: the height and width that they must have.
        device: where batches go.
        kind: what messages call them.
        names: of tensors; None: by their numbers.

    Raises:
        InputError: no images, or some of another shape or range.
    """

    def __init__(
        self,
        images: ImageDataset | Tensor | Sequence[Tensor],
        image_size: tuple[int, int],
        device: torch.device,
        kind: str = "training",
        names: Sequence[str] | None = None,
    ) -> None:
        from fastalign.data import ImageDataset

        self.device = device
        self._kind = kind
        self._names = names
        self._image_size = image_size
        self._dataset = images if isinstance(images, ImageDataset) else None
        self._tensors: Sequence[Tensor] = ()
        if not isinstance(images, ImageDataset):
            self._tensors = _checked(images, image_size, kind)
        elif images.image_size != image_size:
            raise InputError(
                f"the {kind} dataset has image size {images.image_size}, expected {image_size}, "
                "that of the model; make it with that size or set image_size."
            )

    def __len__(self) -> int:
        return len(self._tensors) if self._dataset is None else len(self._dataset)

    @property
    def cached_bytes(self) -> int:
        """Memory of prepared images that the data set keeps, once it has read them all."""
        return 0 if self._dataset is None else self._dataset.cached_bytes

    @property
    def depth(self) -> dict[str, Any] | None:
        """The record of the depth of the photographs' samples; None where it is not known."""
        if self._dataset is None or self._dataset.depth is None:
            return None
        return self._dataset.depth.record()

    def batches(
        self, size: int, indices: Sequence[int] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """``(images [B,3,H,W], their positions [B])`` in the order of ``indices``, by default their
        own."""
        if self._dataset is not None:
            from fastalign.data import iterate_batches

            for batch in iterate_batches(self._dataset, size, indices=indices):
                yield sent(batch.images, self.device), batch.positions
            return
        order = list(range(len(self))) if indices is None else list(indices)
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            stacked = torch.stack([self._tensors[index] for index in chosen])
            yield sent(stacked.float(), self.device), torch.tensor(chosen)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """One batch of these images, as :meth:`batches`; of none as well."""
        if len(indices) == 0:
            images = torch.zeros(0, 3, *self._image_size, device=self.device)
            return images, torch.zeros(0, dtype=torch.int64)
        return next(self.batches(len(indices), indices))

    def name(self, index: int) -> str:
        """What messages call an image: its file, or its number."""
        if self._dataset is None:
            return f"{self._kind} image {index}" if self._names is None else self._names[index]
        return str(self._dataset.samples[index].path)

    def glances(self, progress: Progress) -> Tensor:
        """What :func:`fastalign.data.glance` keeps of each image, ``[N,D]`` on the CPU."""
        from fastalign.data import glance

        if self._dataset is None:
            return torch.cat([glance(image[None]).cpu() for image in self._tensors])
        if self._dataset.unseen:
            progress.start("looking at the photographs", self._dataset.unseen)
        return self._dataset.glances(progress.advance)

    def digests(self) -> list[str]:
        """:func:`fastalign.data.digest` of each image."""
        from fastalign.data import digest

        if self._dataset is None:
            return [digest(image) for image in self._tensors]
        return self._dataset.digests()

    def sizes(self) -> list[tuple[int, int]]:
        """Width and height of the photographs that were read; of tensors nothing is known."""
        return [] if self._dataset is None else list(self._dataset.sizes.values())

    def aspect(self, image_size: tuple[int, int]) -> float:
        """Width over height: the median of the first photographs, or that of the tensors."""
        if self._dataset is None:
            return image_size[1] / image_size[0]
        from fastalign.data import load_image

        first, depth = self._dataset.samples[:_LOOKED_AT], self._dataset.depth
        shapes = [load_image(sample.path, depth=depth).shape for sample in first]
        return float(median(shape[1] / shape[0] for shape in shapes))


def spread(number: int, most: int) -> list[int]:
    """Indices below ``number``, evenly spread if there are more than ``most``."""
    if number <= most:
        return list(range(number))
    return [round(step * (number - 1) / (most - 1)) for step in range(most)]


def _checked(
    images: Tensor | Sequence[Tensor], image_size: tuple[int, int], kind: str
) -> list[Tensor]:
    expected = (3, *image_size)
    if isinstance(images, Tensor):
        checks.dense("fit", f"{kind} images", images)
    if len(images) == 0:
        raise InputError(f"no images for {kind}: give at least one image of a good part.")
    for index, image in enumerate(images):
        if not isinstance(image, Tensor):
            raise InputError(
                f"{kind} image {index} is of type {type(image).__name__}, expected a tensor "
                f"{list(expected)} in 0..1; fastalign.data.prepare makes one of a photograph."
            )
        checks.dense("fit", f"{kind} image {index}", image)
        if image.is_meta:
            raise InputError(
                f"{kind} image {index} is on the device meta, where it has no values; give "
                "photographs that were read."
            )
        if tuple(image.shape) != expected:
            raise InputError(
                f"{kind} image {index} has shape {list(image.shape)}, expected {list(expected)}; "
                "resize it (fastalign.data.prepare does) or set image_size."
            )
        if image.dtype in checks.FLOATS and (bad := int((~image.isfinite()).sum())):
            raise InputError(
                f"{kind} image {index} has {bad} of {image.numel()} values NaN or infinite; "
                "replace them by real values, or leave the image out."
            )
        if image.dtype not in checks.FLOATS or not bool(((image >= 0) & (image <= 1)).all()):
            raise InputError(
                f"{kind} image {index} has dtype {image.dtype} or values outside 0..1; give "
                "floating point values in 0..1, for example image.float() / 255."
            )
    return list(images)
