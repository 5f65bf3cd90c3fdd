"""Running a convolutional stage on pieces of a map, with the result of the whole [O]."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from fastalign.errors import ConfigError

# Lengths on which the reach of a stage is measured; whatever reaches further counts as unbounded.
_SHORTEST, _LONGEST = 64, 2048
_ACROSS = 32
# What was counted of stages by their kind, of which a process makes few.
_counted: dict[Hashable, float] = {}


@dataclass(frozen=True)
class Reach:
    """How far a stage looks along one axis.

    ``stride`` inputs make one output. Where a piece is cut out of a map, its first ``before`` and
    its last ``after`` outputs at the cuts differ from those of the whole map.
    """

    stride: int
    before: int
    after: int

    def pieces(self, length: int, most: int) -> Iterator[tuple[slice, slice]]:
        """Pieces of an axis of ``length`` inputs, each of about ``most`` of them: where to cut the
        input, and which of the outputs of that piece to keep. Put together they are the whole.

        Pieces start at multiples of the stride and are as long as the whole modulo the stride, so
        that paddings which depend on the length (TensorFlow's "same") fall alike.
        """
        stride, rest = self.stride, length % self.stride
        least = self.before + self.after + 1
        steps = max(least, (most - rest) // stride)
        size = steps * stride + rest
        if size >= length:
            yield slice(0, length), slice(0, None)
            return
        start, done = 0, 0
        while start + size < length:
            kept = slice(done - start // stride, steps - self.after)
            yield slice(start, start + size), kept
            done += kept.stop - kept.start
            start = min((done - self.before) * stride, length - size)
        yield slice(start, length), slice(done - start // stride, None)


class Tiler:
    """One stage, run on pieces that need no more than a given number of bytes.

    Where a stage cannot be cut, because each of its outputs depends on the whole map, calling it
    with a limit that the whole map exceeds raises :class:`ConfigError` if the limit must be kept,
    and else runs the whole map at once.

    Arguments:
        stage: takes ``[B,C,H,W]``, returns ``[B,C',H',W']``.
        channels: C.
        name: what messages call it.
        kind: equal for stages that differ in their numbers alone, whose bytes are counted once;
            None: for this one.
    """

    def __init__(
        self, stage: nn.Module, channels: int, name: str, kind: Hashable | None = None
    ) -> None:
        self._stage, self._channels, self._name, self._kind = stage, channels, name, kind
        self._reaches: dict[tuple[int, int], Reach] = {}
        self._bytes_per_pixel: float | None = None
        self._cannot_be_cut = False

    @property
    def bytes_per_pixel(self) -> float:
        """Memory that the stage needs for each pixel of its input, a copy of that pixel and its own
        output included."""
        if self._bytes_per_pixel is None:
            known = None if self._kind is None else _counted.get(self._kind)
            self._bytes_per_pixel = self._count() if known is None else known
            if self._kind is not None:
                _counted[self._kind] = self._bytes_per_pixel
        return self._bytes_per_pixel

    def _count(self) -> float:
        side = 2 * _SHORTEST
        stage = copy.deepcopy(self._stage).to("meta")
        dtype = next(stage.parameters(), torch.empty(0)).dtype
        x = torch.empty(1, self._channels, side, side, device="meta", dtype=dtype)
        peak = peak_bytes(lambda: stage(x.contiguous(memory_format=torch.channels_last)))
        return peak / side**2

    def reach(self, axis: int, length: int) -> Reach:
        """Along ``axis`` (2: rows, 3: columns) of maps that are ``length`` long there.

        Raises:
            ConfigError: every output depends on the whole map.
        """
        reach = self._measured(axis, 0)
        rest = length % reach.stride
        return self._measured(axis, rest) if rest else reach

    def keeps(self, height: int, width: int, limit: float) -> bool:
        """Whether maps of this size can be run in passes of about ``limit`` bytes."""
        if height * width * self.bytes_per_pixel <= limit:
            return True
        if not self._cannot_be_cut:
            try:
                self.reach(2, height), self.reach(3, width)
            except ConfigError:
                self._cannot_be_cut = True
        return not self._cannot_be_cut

    def _measured(self, axis: int, rest: int) -> Reach:
        if (axis, rest) not in self._reaches:
            self._reaches[axis, rest] = self._measure(axis, rest)
        return self._reaches[axis, rest]

    def __call__(self, x: Tensor, limit: float, *, must: bool = True) -> Tensor:
        """The stage's output; images one after the other, and in pieces, where ``limit`` bytes
        would be exceeded. ``must``: the limit has to be kept."""
        images, _, height, width = x.shape
        fits = max(1, int(limit / self.bytes_per_pixel))
        if images * height * width <= fits:
            return self._stage(x)
        if images > 1:
            at_once = max(1, fits // (height * width))
            return torch.cat([self(part, limit, must=must) for part in x.split(at_once)])
        if self._cannot_be_cut and not must:
            return self._stage(x)
        try:
            rows, columns = self.reach(2, height), self.reach(3, width)
        except ConfigError:
            self._cannot_be_cut = True
            if must:
                raise
            return self._stage(x)
        across = self._least(columns, width, max(fits / height, fits**0.5))
        down = self._least(rows, height, fits / across)
        strips = []
        for row, kept_rows in rows.pieces(height, down):
            strip = [
                self._stage(x[:, :, row, column])[:, :, kept_rows, kept_columns]
                for column, kept_columns in columns.pieces(width, across)
            ]
            strips.append(strip[0] if len(strip) == 1 else torch.cat(strip, 3))
        return torch.cat(strips, 2)

    @staticmethod
    def _least(reach: Reach, length: int, wanted: float) -> int:
        """A length of pieces near ``wanted``; half of each is its own, whatever was wanted."""
        return int(min(length, max(wanted, 2 * (reach.before + reach.after + 1) * reach.stride)))

    def _measure(self, axis: int, rest: int) -> Reach:
        """The reach on lengths that leave ``rest``, from where invalid numbers spread to. Paddings
        that depend on the length move it."""
        parameter = next(self._stage.parameters(), torch.empty(0))
        half = _SHORTEST // 2
        while half <= _LONGEST // 2:
            shape = [1, self._channels, _ACROSS, _ACROSS]
            shape[axis] = 2 * half + rest
            spoiled = []
            for part in (slice(0, half), slice(half, None)):
                x = torch.full(shape, 0.5, dtype=parameter.dtype, device=parameter.device)
                x.transpose(axis, 0)[part] = torch.nan
                with torch.no_grad():
                    y = self._stage(x.contiguous(memory_format=torch.channels_last))
                spoiled.append(y.isnan().any(1).any(4 - axis).flatten())
            above, below = spoiled
            stride = round(2 * half / len(above))
            # At least a quarter of the outputs is out of reach of the other half.
            quarter = half // 2 // stride
            clear = quarter > 1 and not (above[-quarter:].any() or below[:quarter].any())
            if half % stride == 0 and clear:
                before = int(above.nonzero().max()) + 1 - half // stride
                after = half // stride - int(below.nonzero().min())
                return Reach(stride, max(0, before), max(0, after))
            half *= 2
        raise ConfigError(
            f"{self._name} cannot be run in pieces: its features depend on the whole image "
            "(attention, squeeze-and-excitation, or a reach of more than "
            f"{_LONGEST // 4} inputs); allow more memory, or use a smaller image size or a "
            "purely convolutional backbone such as tf_efficientnet_lite0 or resnet18"
        )


class _Watch(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._alive = {key: one for key, one in self._alive.items() if not one[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result


def peak_bytes(call: Callable[[], object]) -> int:
    """Most bytes that the tensors made during ``call`` hold at once; nothing is computed where they
    are on the device ``meta``."""
    with torch.no_grad(), _Watch() as watch:
        call()
    return watch.peak
