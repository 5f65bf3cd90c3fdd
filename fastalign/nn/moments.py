"""Means and covariances of many locations at once, from a stream of images.

Chan, Golub and LeVeque's updates ("Updating formulae and a pairwise algorithm for computing sample
variances", 1979): sums of outer products of deviations, never of raw values, so that a large mean
costs no accuracy and two streams can be joined.

For B images of C channels the outer products take ``n B C^2`` multiplications at n locations, and
adding them up passes once over ``n C(C+1)/2`` packed numbers, whatever B is: batches of 16 images
and more are the cheap ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fastalign.ops import native, plans
from fastalign.ops.backends import ENVIRONMENT

# Numbers held at once besides the inputs: little enough for a CPU's cache, and enough locations
# for an accelerator to be busy with.
_CPU_ENTRIES = 1 << 20
_DEVICE_ENTRIES = 1 << 24


def runs(locations: int, entries: int, device: torch.device) -> Iterator[slice]:
    """``range(locations)`` in runs for which ``entries`` numbers per location are few enough."""
    length = run_length(locations, entries, device)
    for start in range(0, locations, length):
        yield slice(start, min(start + length, locations))


def run_length(locations: int, entries: int, device: torch.device) -> int:
    """The length of these runs, except of the last one."""
    budget = _CPU_ENTRIES if device.type == "cpu" else _DEVICE_ENTRIES
    return min(locations, max(1, budget // entries))


def runs_native(op: str, tensor: Tensor) -> bool:
    """Whether native code serves ``op``. Other devices fit with torch's own batched products and
    factorizations: each pass over the sums is short beside a network's."""
    if tensor.device.type != "cpu" or os.environ.get(ENVIRONMENT, "auto") not in (
        "",
        "auto",
        "cpu",
    ):
        return False
    plans.read_environment()
    return native.cannot_run(op, tensor) is None


class PackedTriangle:
    """Lower triangles of C x C matrices, packed by rows into ``size`` = C(C+1)/2 numbers."""

    def __init__(self, channels: int, device: torch.device) -> None:
        self.channels = channels
        row, column = torch.tril_indices(channels, channels, device=device)
        # Positions in a flattened matrix of the packed entries, and the other way round.
        self._packed_from_full = row * channels + column
        every = torch.arange(channels, device=device)
        low, high = torch.minimum(every[:, None], every), torch.maximum(every[:, None], every)
        self._full_from_packed = (high * (high + 1) // 2 + low).flatten()
        self.diagonal = every * (every + 3) // 2

    @property
    def size(self) -> int:
        return self._packed_from_full.numel()

    def pack(self, full: Tensor, out: Tensor | None = None) -> Tensor:
        """``[n,C,C]`` to ``[n,C(C+1)/2]``; the upper triangle is not read."""
        return torch.index_select(full.flatten(1), 1, self._packed_from_full, out=out)

    def symmetric(self, packed: Tensor) -> Tensor:
        """``[n,C(C+1)/2]`` to ``[n,C,C]``, the lower triangle mirrored."""
        full = packed.index_select(1, self._full_from_packed)
        return full.view(-1, self.channels, self.channels)


class Moments:
    """Running sums of n locations.

    Attributes:
        count: ``[n]`` int64, images in which the location was valid.
        mean: ``[n,C]`` float64.
        outer: ``[n,C(C+1)/2]`` float32, packed sum of outer products of the deviations from it.

    The methods expect to be called without gradients.
    """

    def __init__(self, locations: int, channels: int, device: torch.device) -> None:
        packed = channels * (channels + 1) // 2
        self.count = torch.zeros(locations, dtype=torch.int64, device=device)
        self.mean = torch.zeros((locations, channels), dtype=torch.float64, device=device)
        self.outer = torch.zeros((locations, packed), dtype=torch.float32, device=device)

    def add(self, features: Tensor, valid: Tensor | None) -> None:
        """Take in images ``[B,C,H,W]`` of any floating-point dtype; ``valid`` ``[B,H,W]`` bool."""
        if runs_native("add_moments_", features):
            kernel = native.kernel("add_moments_")
            kernel(self.count, self.mean, self.outer, features, valid)
            return
        maps = features.flatten(2)
        valid = None if valid is None else valid.flatten(1)
        work = _Workspace(self, len(maps))
        wide = maps.dtype == torch.float64
        for run in work.runs:
            rows = work.rows[:, : run.stop - run.start]
            values = maps[:, :, run].transpose(1, 2)
            deviations = values.clone() if wide else rows[:-1].copy_(values)
            count, mean = _centre(deviations, None if valid is None else valid[:, run])
            if wide:
                rows[:-1] = deviations
            # The distance between the old and the new mean enters as one more deviation.
            rows[-1] = self._join(run, count, mean)
            work.add_outer(self.outer[run], rows)

    def merge(self, other: Moments) -> None:
        """Take in what ``other``, of the same shape and on any device, has seen."""
        work = _Workspace(self, 0)
        for run in work.runs:
            count, mean, outer = (
                part[run].to(self.mean.device) for part in (other.count, other.mean, other.outer)
            )
            rows = work.rows[:, : len(count)]
            self.outer[run] += outer
            rows[0] = self._join(run, count, mean)
            work.add_outer(self.outer[run], rows)

    def _join(self, run: slice, count: Tensor, mean: Tensor) -> Tensor:
        """Take in the counts ``[n]`` and means ``[n,C]`` of other images at the locations ``run``.

        Returns the vectors ``[n,C]`` whose outer products the sums of outer products gain.
        """
        before = self.count[run]
        total = before + count
        share = count / total.clamp_min(1).double()
        delta = mean - self.mean[run]
        gain = delta * (before * share).sqrt().unsqueeze(-1)
        self.mean[run] += delta * share.unsqueeze(-1)
        self.count[run] = total
        return gain

    def part(self, run: slice) -> Moments:
        """The sums at the locations ``run``: the same memory."""
        part = Moments.__new__(Moments)
        part.count, part.mean, part.outer = self.count[run], self.mean[run], self.outer[run]
        return part

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Replace every tensor by ``fn(tensor)``, for moves between devices."""
        self.count, self.mean, self.outer = map(fn, (self.count, self.mean, self.outer))


class _Workspace:
    """Buffers for one run of locations after the other; new ones each time would cost more than
    the arithmetic."""

    def __init__(self, moments: Moments, images: int) -> None:
        locations, channels = moments.mean.shape
        device = moments.mean.device
        self._triangle = PackedTriangle(channels, device)
        entries = channels * channels + self._triangle.size + (images + 1) * channels
        self.runs = list(runs(locations, entries, device))
        length = run_length(locations, entries, device)
        # Images outside: then a channels_last input is copied in its own order.
        self.rows = moments.outer.new_empty((images + 1, length, channels))
        self._full = moments.outer.new_empty((length, channels, channels))
        self._packed = moments.outer.new_empty((length, self._triangle.size))

    def add_outer(self, to: Tensor, rows: Tensor) -> None:
        """Add ``sum over k of rows_k rows_k^T`` for rows ``[k,n,C]`` to packed ``[n,C(C+1)/2]``."""
        by_location = rows.transpose(0, 1)
        full, packed = self._full[: len(to)], self._packed[: len(to)]
        torch.bmm(by_location.mT, by_location, out=full)
        to += self._triangle.pack(full, out=packed)


def _centre(rows: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Subtract each location's mean over the images from ``rows`` ``[B,n,C]``, in place.

    Invalid entries, ``valid`` ``[B,n]`` False, become 0. Returns the counts ``[n]`` and the means
    ``[n,C]`` in float64.
    """
    if valid is None:
        count = torch.full(rows.shape[1:2], rows.shape[0], device=rows.device)
    else:
        count = valid.sum(0)
        invalid = ~valid.unsqueeze(-1)
        rows.masked_fill_(invalid, 0)
    share = 1 / count.clamp_min(1).to(rows.dtype).unsqueeze(-1)
    mean = torch.zeros(rows.shape[1:], dtype=torch.float64, device=rows.device)
    # The first mean is rounded to the size of the values. What it leaves is centred once more,
    # and by then the rounding is that of the deviations.
    for _ in range(2):
        centre = rows.sum(0).mul_(share)
        rows -= centre
        if valid is not None:
            rows.masked_fill_(invalid, 0)
        mean += centre
    return count, mean
