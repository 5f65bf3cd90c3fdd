"""From samples to tensors: resizing, a dataset, and batches decoded ahead of their use."""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastalign.data.depth import Depth
from fastalign.data.images import ImageArray, load_image
from fastalign.data.resize import check_size, resize_image
from fastalign.data.samples import Sample
from fastalign.data.twins import glance
from fastalign.errors import DataWarning, InputError
from fastalign.numeric import MOST_THREADS, whole_number
from fastalign.words import count, none_of, part_of

_WORKERS = max(1, min(4, os.cpu_count() or 1))


class Item(NamedTuple):
    """A prepared image, float32 ``[3, H, W]`` in 0..1, and its position in ``dataset.samples``."""

    image: Tensor
    position: int


class Batch(NamedTuple):
    """Prepared images: float32 ``[B, 3, H, W]`` in 0..1, and their positions, int64 ``[B]``."""

    images: Tensor
    positions: Tensor


class SkippedFile(NamedTuple):
    """A file that was left out, and why."""

    path: Path
    reason: str


def prepare(image: ImageArray, image_size: tuple[int, int]) -> Tensor:
    """Resize an image and bring it to the range 0..1.

    The whole image is resized, see :func:`resize_image`, and divided by 255. Normalisation belongs
    to the backbone. ``fastalign.prepare`` does the same without torch.

    Args:
        image: uint8 ``[H, W, 3]``.
        image_size: height and width of the result.

    Returns:
        float32 ``[3, height, width]``, contiguous.

    Raises:
        ValueError: ``image`` has another shape or dtype.
        ConfigError: ``image_size`` is not two positive numbers.
    """
    return _to_float(_resize(image, image_size))


def _resize(image: ImageArray, size: tuple[int, int]) -> Tensor:
    return torch.from_numpy(resize_image(image, size)).permute(2, 0, 1)


def _to_float(pixels: Tensor) -> Tensor:
    return pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


class ImageDataset(Dataset[Item]):
    """Samples as prepared tensors.

    Args:
        samples: what to read; their order is that of the dataset.
        image_size: height and width of the tensors.
        skip_bad: read every file once, now, and leave those out that cannot be read, with one
            warning; ``skipped`` lists them. Without it such a file raises InputError when its turn
            comes.
        cache: keep the prepared images, 8 bits per value (3 * H * W bytes each), so that further
            passes do not decode again.
        depth: of 16-bit files that state none, see :func:`load_image`.
        workers: threads for reading with ``skip_bad``; the default is up to 4.

    Attributes:
        samples: the samples that are left.
        depth: as given.
        skipped: the files that were left out, with reasons.
        sizes: width and height of the photographs that were read so far, by path.

    Raises:
        ConfigError: ``image_size`` is not two positive numbers.
        InputError: no samples, or ``skip_bad`` and none of them can be read.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        image_size: tuple[int, int],
        skip_bad: bool = False,
        *,
        cache: bool = False,
        depth: Depth | None = None,
        workers: int | None = None,
    ) -> None:
        self.depth = depth
        self.image_size = check_size(image_size)
        self.samples = list(samples)
        self.skipped: list[SkippedFile] = []
        self._cache: list[Tensor | None] | None = [None] * len(self.samples) if cache else None
        self._glances: list[Tensor | None] = [None] * len(self.samples)
        self.sizes: dict[Path, tuple[int, int]] = {}
        if not self.samples:
            raise InputError("no images: an image dataset needs at least one sample.")
        workers = _WORKERS if workers is None else whole_number("workers", workers, 1, MOST_THREADS)
        if skip_bad:
            self._drop_bad(workers)

    @property
    def cached_bytes(self) -> int:
        """Memory of the prepared images once all of them were read; 0 without ``cache``."""
        return 0 if self._cache is None else 3 * math.prod(self.image_size) * len(self)

    def _drop_bad(self, workers: int) -> None:
        def problem(index: int) -> str | None:
            try:
                self._pixels(index)
            except InputError as error:
                return str(error)
            return None

        with ThreadPoolExecutor(workers) as pool:
            problems = list(pool.map(problem, range(len(self.samples))))
        kept = [index for index, reason in enumerate(problems) if reason is None]
        self.skipped = [
            SkippedFile(sample.path, reason)
            for sample, reason in zip(self.samples, problems, strict=True)
            if reason is not None
        ]
        if not self.skipped:
            return
        if not kept:
            raise InputError(
                f"{none_of(len(problems), 'image', 'could be read')}; the first: "
                f"{self.skipped[0].reason}"
            )
        self._keep(kept)
        warnings.warn(
            f"{part_of(len(self.skipped), len(problems), 'image')} left out as unreadable; the "
            f"first: {self.skipped[0].reason}",
            DataWarning,
            stacklevel=3,
        )

    def _keep(self, indices: Sequence[int]) -> None:
        self.samples = [self.samples[index] for index in indices]
        self._glances = [self._glances[index] for index in indices]
        if self._cache is not None:
            self._cache = [self._cache[index] for index in indices]

    def subset(self, indices: Sequence[int]) -> ImageDataset:
        """A data set of these images, in this order, with all that is known of them; ``skipped`` is
        empty."""
        part = copy.copy(self)
        part.skipped = []
        part._keep(indices)
        return part

    def glances(self, advance: Callable[[], None] | None = None) -> Tensor:
        """What :func:`fastalign.data.glance` keeps of each image, ``[N,D]``; images that were not
        read so far are read, and ``advance`` is called after each of these.

        Raises:
            InputError: an image cannot be read.
        """
        missing = [index for index, seen in enumerate(self._glances) if seen is None]
        for _ in iterate_batches(self, 1, indices=missing, ahead=_WORKERS):
            if advance is not None:
                advance()
        return torch.stack([seen for seen in self._glances if seen is not None])

    @property
    def unseen(self) -> int:
        """How many images were not read so far."""
        return sum(seen is None for seen in self._glances)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index}: the dataset has {count(len(self), 'image')}.")
        index %= len(self)
        return Item(_to_float(self._pixels(index)), index)

    def _pixels(self, index: int) -> Tensor:
        """uint8 ``[3, H, W]``."""
        if self._cache is not None and (kept := self._cache[index]) is not None:
            return kept
        path = self.samples[index].path
        image = load_image(path, depth=self.depth)
        self.sizes[path] = (image.shape[1], image.shape[0])
        pixels = _resize(image, self.image_size)
        if self._glances[index] is None:
            self._glances[index] = glance(_to_float(pixels)[None])[0]
        if self._cache is not None:
            self._cache[index] = pixels
        return pixels


def iterate_batches(
    dataset: ImageDataset,
    batch_size: int,
    *,
    indices: Sequence[int] | None = None,
    workers: int | None = None,
    ahead: int = 2,
) -> Iterator[Batch]:
    """Batches in a fixed order, read ahead by threads while the caller computes.

    The order and the contents do not depend on ``workers``. Decoders release the interpreter lock,
    so threads read in parallel and no process is started. Leaving the loop early stops the reading.

    Args:
        dataset: what to read.
        batch_size: images per batch; the last batch may have fewer.
        indices: which images, in which order; all in their own order by default.
        workers: reading threads; the default is up to 4. 0 reads in the caller's thread.
        ahead: batches to read ahead at most.

    Raises:
        ConfigError: ``batch_size`` or ``ahead`` is less than 1, or ``workers`` is negative.
        InputError: an image cannot be read, at its batch.
    """
    batch_size = whole_number("batch_size", batch_size, 1)
    ahead = whole_number("ahead", ahead, 1)
    workers = _WORKERS if workers is None else whole_number("workers", workers, 0, MOST_THREADS)
    order = range(len(dataset)) if indices is None else [int(index) for index in indices]
    if workers == 0:
        return _collate((dataset[index] for index in order), batch_size)
    return _collate(_read_ahead(dataset, order, workers, batch_size * ahead), batch_size)


def collect(dataset: ImageDataset, *, workers: int | None = None) -> Tensor:
    """All images of a dataset in its order, float32 ``[N, 3, H, W]`` in 0..1.

    Raises:
        InputError: an image cannot be read.
    """
    images = torch.empty(len(dataset), 3, *dataset.image_size)
    for batch in iterate_batches(dataset, 1, workers=workers, ahead=8):
        images[batch.positions] = batch.images
    return images


def _read_ahead(
    dataset: ImageDataset, order: Sequence[int], workers: int, most: int
) -> Iterator[Item]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="fastalign-read")
    waiting: deque[Future[Item]] = deque()
    try:
        for index in order:
            waiting.append(pool.submit(dataset.__getitem__, index))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _collate(items: Iterator[Item], batch_size: int) -> Iterator[Batch]:
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == batch_size:
            yield _stack(batch)
            batch = []
    if batch:
        yield _stack(batch)


def _stack(items: list[Item]) -> Batch:
    return Batch(
        torch.stack([item.image for item in items]), torch.tensor([item.position for item in items])
    )
