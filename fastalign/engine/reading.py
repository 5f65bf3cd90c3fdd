"""Photographs as the threads of a run read them: decoded, and brought to the model's size."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fastalign.data import Depth, load_image
from fastalign.data.decode import size_of
from fastalign.data.tensors import resized
from fastalign.engine.inputs import Input
from fastalign.engine.pictures import PictureWriter
from fastalign.errors import InputError

# Of one pixel while it is decoded: the decoder's picture, the array, and either turned or cut.
_BYTES_OF_A_PIXEL = 9


@dataclass(frozen=True)
class Photograph:
    """One that was read.

    Attributes:
        item: what it is.
        image: uint8 ``[H,W,3]``; None where it cannot be read.
        resized: uint8 ``[3,h,w]`` of the model's size; None likewise.
        reason: why it cannot be read; empty where it was.
    """

    item: Input
    image: npt.NDArray[np.uint8] | None
    resized: torch.Tensor | None
    reason: str = ""


class Reader:
    """Reads photographs for a model; several threads may do so at once.

    Args:
        size: height and width of the model's images.
        depth: of 16-bit files that state none.
        writer: of the pictures that will be made of them.
    """

    def __init__(self, size: tuple[int, int], depth: Depth | None, writer: PictureWriter) -> None:
        self._size, self._depth, self._writer = size, depth, writer

    def read(self, item: Input) -> Photograph:
        """The photograph, or why there is none."""
        try:
            image = load_image(item.path, depth=self._depth)
        except InputError as error:
            return Photograph(item, None, None, str(error))
        return Photograph(item, image, resized(image, self._size))

    def weigh(self, item: Input) -> int:
        """Bytes that it takes from reading to writing, by the head of its file."""
        size = size_of(item.path)
        if size is None:
            return 0
        return _BYTES_OF_A_PIXEL * size[0] * size[1] + self._writer.bytes_of(size, self._size)


@contextlib.contextmanager
def reading_ahead(
    read: Callable[[int], npt.NDArray[np.uint8]], order: Sequence[int]
) -> Iterator[Callable[[int], npt.NDArray[np.uint8]]]:
    """``read`` for images that are asked for in ``order``: while the caller is busy with one, a
    thread reads the next.

    Args:
        read: gives a photograph by its number, or raises.
        order: the numbers, each once.
    """
    following = dict(itertools.pairwise(order))
    pool = ThreadPoolExecutor(1, thread_name_prefix="fastalign-image")
    waiting: dict[int, Future[npt.NDArray[np.uint8]]] = {}

    def next_one(number: int) -> npt.NDArray[np.uint8]:
        found = (waiting.pop(number, None) or pool.submit(read, number)).result()
        if number in following:
            waiting[following[number]] = pool.submit(read, following[number])
        return found

    try:
        yield next_one
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
