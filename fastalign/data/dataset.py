"""Samples as a data set of prepared tensors, which knows what of them was read so far."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastalign.data.batches import WORKERS, Item, iterate_batches
from fastalign.data.depth import Depth
from fastalign.data.images import load_image
from fastalign.data.resize import check_size
from fastalign.data.samples import Sample
from fastalign.data.tensors import resized, to_float
from fastalign.data.twins import digest, glance
from fastalign.errors import DataWarning, InputError
from fastalign.numeric import MOST_THREADS, whole_number
from fastalign.words import count, none_of, part_of


class SkippedFile(NamedTuple):
    """A file that was left out, and why."""

    path: Path
    reason: str


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
        self._digests: list[str] = [""] * len(self.samples)
        self.sizes: dict[Path, tuple[int, int]] = {}
        if not self.samples:
            raise InputError("no images: an image dataset needs at least one sample.")
        workers = WORKERS if workers is None else whole_number("workers", workers, 1, MOST_THREADS)
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
        self._digests = [self._digests[index] for index in indices]
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
        self._read_unseen(advance)
        return torch.stack([seen for seen in self._glances if seen is not None])

    def digests(self) -> list[str]:
        """:func:`fastalign.data.digest` of each image; those not read so far are read.

        Raises:
            InputError: an image cannot be read.
        """
        self._read_unseen(None)
        return list(self._digests)

    def _read_unseen(self, advance: Callable[[], None] | None) -> None:
        missing = [index for index, seen in enumerate(self._glances) if seen is None]
        for _ in iterate_batches(self, 1, indices=missing, ahead=WORKERS):
            if advance is not None:
                advance()

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
        return Item(to_float(self._pixels(index)), index)

    def _pixels(self, index: int) -> Tensor:
        """uint8 ``[3, H, W]``."""
        if self._cache is not None and (kept := self._cache[index]) is not None:
            return kept
        path = self.samples[index].path
        image = load_image(path, depth=self.depth)
        self.sizes[path] = (image.shape[1], image.shape[0])
        pixels = resized(image, self.image_size)
        if self._glances[index] is None:
            self._digests[index] = digest(pixels)
            self._glances[index] = glance(to_float(pixels)[None])[0]
        if self._cache is not None:
            self._cache[index] = pixels
        return pixels
