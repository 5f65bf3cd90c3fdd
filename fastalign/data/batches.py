"""Batches of prepared images in a fixed order, decoded ahead of their use."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fastalign.numeric import MOST_THREADS, whole_number

WORKERS = max(1, min(4, os.cpu_count() or 1))
"""Reading threads where a caller names no number."""


class Item(NamedTuple):
    """A prepared image, float32 ``[3, H, W]`` in 0..1, and its position in ``dataset.samples``."""

    image: Tensor
    position: int


class Images(Protocol):
    """What batches are made of: prepared images of one size, by position."""

    image_size: tuple[int, int]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Item: ...


class Batch(NamedTuple):
    """Prepared images: float32 ``[B, 3, H, W]`` in 0..1, and their positions, int64 ``[B]``."""

    images: Tensor
    positions: Tensor


def iterate_batches(
    dataset: Images,
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
    workers = WORKERS if workers is None else whole_number("workers", workers, 0, MOST_THREADS)
    order = range(len(dataset)) if indices is None else [int(index) for index in indices]
    if workers == 0:
        return _collate((dataset[index] for index in order), batch_size)
    return _collate(_read_ahead(dataset, order, workers, batch_size * ahead), batch_size)


def collect(dataset: Images, *, workers: int | None = None) -> Tensor:
    """All images of a dataset in its order, float32 ``[N, 3, H, W]`` in 0..1.

    Raises:
        InputError: an image cannot be read.
    """
    images = torch.empty(len(dataset), 3, *dataset.image_size)
    for batch in iterate_batches(dataset, 1, workers=workers, ahead=8):
        images[batch.positions] = batch.images
    return images


def _read_ahead(dataset: Images, order: Sequence[int], workers: int, most: int) -> Iterator[Item]:
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
