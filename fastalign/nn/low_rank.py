"""Covariances as an identity and a few directions, from a location's photographs and those of its
neighbours."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fastalign.errors import ConfigError
from fastalign.nn.eight_bits import rounded
from fastalign.nn.moments import Moments, PackedTriangle, run_length, runs
from fastalign.nn.pooled import window_sums
from fastalign.nn.transfer import fetched, sent
from fastalign.numeric import LARGEST_PRIOR, LARGEST_WHOLE, real_number, whole_number

# Directions of the subspace iteration beyond those that are wanted.
_OVERSAMPLED = 10


@dataclass(frozen=True)
class LowRank:
    """How covariances become an identity and a few directions. Ours.

    For features that vary alike in every direction where all locations are taken together
    (:class:`fastalign.nn.Whitening`). With n photographs of a location and the sum S of outer
    deviations in a window around it, taken for those n, the covariance is the mean of an inverse
    Wishart posterior whose prior is the identity::

        (strength I + S) / (strength + n - 1)

    Of S the ``rank`` leading directions ``u_j`` are kept, so that the covariance is ``c I`` plus
    what they add, ``e_j`` along each. Distances are in units of ``sqrt(c)``, the length of what is
    left of a deviation once each of these directions is shrunk by ``sqrt(c / e_j)``; so nothing
    grows with the number of photographs (:func:`fastalign.ops.mahalanobis`, the low-rank form).

    Attributes:
        strength: of the prior, in photographs, above 0.
        rank: directions, at most as many as there are channels.
        radius: of the window, in locations; 0: each location by itself.
        bits: that each number of a stored direction keeps: 16, those of the storage, or 8, with a
            scale for each direction, in float16 storage.

    Raises:
        ConfigError: a number out of its range.
    """

    strength: float
    rank: int
    radius: int = 1
    bits: int = 16

    def __post_init__(self) -> None:
        real_number("LowRank: strength", self.strength, 0, LARGEST_PRIOR, because="photographs")
        if self.strength == 0:
            raise ConfigError("LowRank: strength 0; use packed factors instead")
        whole_number("LowRank: rank", self.rank, 0, LARGEST_WHOLE)
        whole_number("LowRank: radius", self.radius, 0, LARGEST_WHOLE)
        if self.bits not in (8, 16):
            raise ConfigError(f"LowRank: bits {self.bits!r}; use 8 or 16")

    def stored(self, rows: Tensor, storage: torch.dtype) -> Tensor:
        """Rows in ``storage``, each number of the ``bits`` that it keeps."""
        if self.bits == 8 and storage == torch.float16:
            return rounded(rows)
        return rows.to(storage)


def low_rank(
    sums: Moments,
    size: tuple[int, int],
    form: LowRank,
    storage: torch.dtype,
) -> Tensor:
    """The rows ``[H*W,R,C]`` of the low-rank form, in ``storage``.

    Args:
        sums: of the features of H*W locations.
        size: H and W.
        form: how.
        storage: dtype of the result; the rows are at most 1 long.
    """
    device, channels = sums.outer.device, sums.mean.shape[1]
    freedom = (sums.count - 1).clamp_min(0).view(size).float()
    rank = min(form.rank, channels)
    rows = torch.zeros((len(sums.count), rank, channels), dtype=storage, device=device)
    if rank == 0:
        return rows
    # Of the window as many photographs as the location has.
    share = freedom / window_sums(freedom[None], form.radius)[0].clamp_min(1)
    for run, pooled in _windows(sums.outer, size, form.radius):
        scatter = PackedTriangle(channels, device).symmetric(pooled)
        rows[run] = form.stored(rows_of(scatter * share.flatten()[run, None, None], form), storage)
    return rows


def more_low_rank(
    rows: Tensor,
    counts: Tensor,
    gain: Tensor,
    sums: Moments,
    size: tuple[int, int],
    form: LowRank,
) -> Tensor:
    """Rows of the low-rank form once more images are in it, ``[H*W,R,C]``.

    Of the images before, the directions that are stored count, with what they added along each.

    Args:
        rows: ``[H*W,R,C]`` as they are.
        counts: ``[H*W]`` images before.
        gain: ``[H*W,C]``, whose outer products the sums of all gain over those of both parts.
        sums: of the new images.
        size: H and W.
        form: how, of the same strength as before.
    """
    channels = gain.shape[1]
    rank = min(form.rank, channels)
    found = torch.zeros((len(counts), rank, channels), dtype=rows.dtype, device=rows.device)
    before = (counts - 1).clamp_min(0).view(size).float()
    after = (counts + sums.count - 1).clamp_min(0).view(size).float()
    around, then = window_sums(torch.stack([before, after]), form.radius)
    # What is stored was taken for the images before, of those of the window.
    old = (around / before.clamp_min(1) * after / then.clamp_min(1)).flatten()
    new = (after / then.clamp_min(1)).flatten()
    triangle = PackedTriangle(channels, rows.device)
    outer = sums.outer.clone()
    for run in runs(len(counts), 2 * channels**2, rows.device):
        own = gain[run].float()
        outer[run] += triangle.pack(own[:, :, None] * own[:, None, :])
    for run, pooled in _windows(outer, size, form.radius):
        own = rows[run].float()
        kept = own.square().sum(2).clamp_max(1 - torch.finfo(rows.dtype).eps)
        added = form.strength * ((1 - kept).pow(-2) - 1)
        axes = own * (added / kept.clamp_min(1e-30)).sqrt()[:, :, None]
        scatter = old[run, None, None] * (axes.mT @ axes)
        scatter += new[run, None, None] * triangle.symmetric(pooled)
        found[run] = form.stored(rows_of(scatter, form), rows.dtype)
    return found


def rows_of(scatter: Tensor, form: LowRank) -> Tensor:
    """The rows ``[n,R,C]`` for sums of outer deviations ``scatter [n,C,C]``, those of the window
    taken for the photographs of its middle."""
    values, vectors = _leading(scatter, min(form.rank, scatter.shape[1]))
    # sqrt(c / e_j), with e_j and c of the same denominator.
    shrunk = (form.strength / (form.strength + values.clamp_min(0))).sqrt()
    return vectors * (1 - shrunk).sqrt()[:, :, None]


def _windows(outer: Tensor, size: tuple[int, int], radius: int) -> Iterator[tuple[slice, Tensor]]:
    """The window sums of packed ``outer [h*w,P]``, a run of locations at a time."""
    height, width = size
    by_row = outer.view(height, width, -1)
    at_once = max(1, run_length(height, width * 8 * outer.shape[1], outer.device))
    for first in range(0, height, at_once):
        last = min(first + at_once, height)
        pooled = _window_rows(by_row, first, last, radius)
        yield slice(first * width, last * width), pooled.flatten(0, 1)


def _window_rows(outer: Tensor, first: int, last: int, radius: int) -> Tensor:
    """Of packed sums ``[h,w,P]`` the window sums at some rows, ``[last - first,w,P]``."""
    height, width = outer.shape[:2]
    found = outer.new_zeros((last - first, width, outer.shape[2]))
    for row in range(first, last):
        above, below = max(0, row - radius), min(height, row + radius + 1)
        line = outer[above] if below - above == 1 else outer[above:below].sum(0)
        into = found[row - first]
        into += line
        for shift in range(1, min(radius, width - 1) + 1):
            into[shift:] += line[:-shift]
            into[:-shift] += line[shift:]
    return found


def _leading(matrices: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The ``rank`` largest eigenvalues ``[n,R]`` and eigenvectors ``[n,R,C]`` of positive
    semidefinite ``matrices [n,C,C]``: by subspace iteration (Halko, Martinsson and Tropp 2011,
    algorithm 4.4, from a fixed start) where they are few of many, and whole where not."""
    channels = matrices.shape[1]
    block = rank + _OVERSAMPLED
    # A GPU decomposes one matrix after the other, and multiplies all at once.
    if block >= channels or (3 * block > channels and not matrices.is_cuda):
        values, vectors = _decomposed(matrices)
    else:
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(channels, block, generator=generator).to(matrices)
        basis = matrices @ (matrices @ start)
        basis = matrices @ (matrices @ _orthonormal(basis))
        # Once more: the square of what rounding has left.
        basis = _orthonormal(_orthonormal(basis))
        values, mixed = _decomposed(basis.mT @ (matrices @ basis))
        vectors = basis @ mixed
    return values.flip(1)[:, :rank], vectors.flip(2)[:, :, :rank].mT


def _decomposed(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors, by the host."""
    values, vectors = torch.linalg.eigh(fetched(matrices))
    return sent(values, matrices.device), sent(vectors, matrices.device)


def _orthonormal(columns: Tensor) -> Tensor:
    """The columns ``[n,C,k]`` made orthonormal, those of them that are independent (Cholesky QR
    with a shift): products of matrices and small factorizations, which every device does in
    batches."""
    gram = columns.mT @ columns
    diagonal = gram.diagonal(dim1=1, dim2=2)
    eps = torch.finfo(columns.dtype).eps
    shift = 10 * eps * diagonal.sum(1, keepdim=True) + math.sqrt(torch.finfo(gram.dtype).tiny)
    diagonal += shift
    factor = torch.linalg.cholesky_ex(gram).L
    identity = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
    return columns @ inverse.mT
