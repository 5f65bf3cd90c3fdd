"""How much larger distances are where a Gaussian was fitted to fewer images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastalign.nn.low_rank import LowRank, rows_of
from fastalign.nn.mean_prior import MeanPrior
from fastalign.nn.prior import CovariancePrior
from fastalign.numeric import LARGEST_SHRINKAGE, real_number, seed_number
from fastalign.ops import checks

_GROWTH = 1.4
_REPEATS = 4
_HELD_OUT = 24
# Numbers of covariances at once.
_ENTRIES = 1 << 24
# In standard deviations: a mean distance below it is rounding, or that of an image from its copy.
_MEASURED = 1e-6


class CountCalibration:
    """The mean distance of held-out images as a function of the number of images fitted to. Ours.

    A Gaussian of C channels fitted to few images puts new normal images far away, and the further
    the fewer they are. Alignment leaves
    the rim of the frame with fewer images than its middle, whose distances then cannot be
    compared. The factor is measured: at some locations that all images saw, Gaussians are fitted to
    random subsets of growing size, and the distances of the rest are averaged.

    Arguments:
        samples: ``[N,L,C]``, features of N images at L locations valid in all of them, N at
            least 3.
        shrinkage: that of the density.
        seed: of the subsets.
        prior: that of the density, whose shrinkage then counts.
        mean: the prior of its means; of that of neighbours, which samples do not show, nothing is
            in the curve.

    Raises:
        ValueError: samples of another shape.
        ConfigError: a number out of range.

    Attributes:
        counts, distances: the curve, ``[M]`` on the CPU; strictly growing counts from 2 to N - 1,
        distances made not to grow.
    """

    def __init__(
        self,
        samples: Tensor,
        shrinkage: float,
        seed: int = 0,
        prior: CovariancePrior | None = None,
        mean: MeanPrior | None = None,
    ) -> None:
        checks.floating("CountCalibration", "samples", samples)
        number = len(samples)
        if samples.dim() != 3 or number < 3:
            raise ValueError(
                f"CountCalibration: samples have shape {list(samples.shape)}, expected [N, L, C] "
                "with N at least 3"
            )
        if samples.is_meta:
            raise ValueError("CountCalibration: samples are on meta, where they have no values")
        shrinkage = real_number("CountCalibration: shrinkage", shrinkage, 0, LARGEST_SHRINKAGE)
        values = samples.double()

        def measure(order: Tensor, size: int) -> Tensor:
            return _mean_distances(values, order, size, shrinkage, prior, mean)

        self._measure(number, seed, measure, _at_once(values))

    @classmethod
    def of_windows(
        cls, windows: Tensor, form: LowRank, seed: int = 0, mean: MeanPrior | None = None
    ) -> CountCalibration:
        """The curve of densities of low rank.

        Args:
            windows: ``[N,L,K,C]``, features of N images, at least 3, at L locations and at those
                around them, K in all with the location itself in the middle.
            form: that of the density.
            seed: of the subsets.
            mean: the prior of the density's means.

        Raises:
            ValueError: windows of another shape.
            ConfigError: a seed out of range.
        """
        if windows.dim() != 4 or len(windows) < 3:
            raise ValueError(
                f"CountCalibration: windows have shape {list(windows.shape)}, expected "
                "[N, L, K, C] with N at least 3"
            )
        made = cls.__new__(cls)

        def measure(order: Tensor, size: int) -> Tensor:
            found = [_mean_of_low_rank(windows, one, size, form, mean) for one in order]
            return torch.stack(found)

        made._measure(len(windows), seed, measure, 1)
        return made

    def _measure(
        self, number: int, seed: int, measure: Callable[[Tensor, int], Tensor], at_once: int
    ) -> None:
        """The curve for ``number`` images, of what ``measure`` finds in orders ``[R,N]`` of them of
        which the first so many are fitted to."""
        seed = seed_number(seed, "CountCalibration: seed")
        generator = torch.Generator().manual_seed(seed)
        sizes = [2]
        while sizes[-1] < number - 1:
            sizes.append(min(number - 1, max(sizes[-1] + 1, round(sizes[-1] * _GROWTH))))
        curve = []
        for size in sizes:
            repeats = max(_REPEATS, min(_HELD_OUT, number) // max(1, number - size))
            orders = [torch.randperm(number, generator=generator) for _ in range(repeats)]
            found = [measure(order, size) for order in torch.stack(orders).split(at_once)]
            curve.append(torch.cat(found).double().mean())
        self.counts = torch.tensor(sizes, dtype=torch.float64)
        # More images never make it worse; what says so is noise.
        self.distances = torch.stack(curve).cpu().cummin(0).values

    def distance(self, count: Tensor) -> Tensor:
        """Expected distance for counts of any shape, float64, where ``count`` is; log-linear
        between the measured ones, the last one beyond them."""
        counts, distances = self.counts.to(count.device), self.distances.to(count.device)
        position = count.double().clamp(counts[0], counts[-1]).log()
        axis = counts.log()
        upper = torch.searchsorted(axis, position).clamp(1, max(1, len(axis) - 1))
        if len(axis) == 1:
            return distances[0].expand(count.shape)
        lower = upper - 1
        # An index of one element would be read back from the device.
        start, end = axis.take(lower), axis.take(upper)
        share = (position - start) / (end - start)
        return torch.lerp(distances.take(lower), distances.take(upper), share)

    def ratio(self, count: Tensor, other: Tensor) -> Tensor:
        """Distances at ``count`` over those at ``other``, float64; 1 where one of the two was not
        measured: images without any difference have no curve."""
        above, below = self.distance(count.to(other.device)), self.distance(other)
        measured = torch.minimum(above, below) > _MEASURED
        return torch.where(measured, above / below.clamp_min(_MEASURED), 1.0)

    def factor(self, count: Tensor) -> Tensor:
        """What to multiply distances with so that they compare with those at the largest count:
        float32, at most 1."""
        return self.ratio(count.max(), count).clamp_max(1).float()


def _at_once(values: Tensor) -> int:
    """Subsets whose Gaussians are fitted together: on a GPU as many as take some 100 MB, since each
    by itself would leave it idle; a CPU is no faster for it."""
    _, places, channels = values.shape
    return max(1, _ENTRIES // (places * channels**2)) if values.is_cuda else 1


def _mean_distances(
    values: Tensor,
    orders: Tensor,
    size: int,
    shrinkage: float,
    prior: CovariancePrior | None,
    drawn: MeanPrior | None,
) -> Tensor:
    """Of each of ``orders [R,N]`` of values ``[N,L,C]`` the mean Mahalanobis distance of those
    behind the first ``size`` to the Gaussians of these, ``[R]``."""
    orders = orders.to(values.device)
    given, held_out = values[orders[:, :size]], values[orders[:, size : size + _HELD_OUT]]
    mean = given.mean(1, keepdim=True)
    deviations = (given - mean).transpose(1, 2)
    covariance, freedom = deviations.mT @ deviations, float(size - 1)
    if prior is not None:
        covariance += prior.strength * prior.covariance.to(covariance)
        freedom, shrinkage = freedom + prior.strength, prior.shrinkage
    if drawn is not None:
        mean = drawn.drawn(mean.flatten(0, 2)[:, None], size).view_as(mean)
    covariance /= freedom
    covariance.diagonal(dim1=-2, dim2=-1).add_(shrinkage)
    factor = torch.linalg.cholesky(covariance)
    whitened = torch.linalg.solve_triangular(
        factor, (held_out - mean).permute(0, 2, 3, 1), upper=False
    )
    return whitened.square().sum(2).sqrt().mean((1, 2))


def _mean_of_low_rank(
    windows: Tensor, order: Tensor, size: int, form: LowRank, drawn: MeanPrior | None
) -> Tensor:
    """Of ``order [N]`` of windows ``[N,L,K,C]`` the mean distance of those behind the first
    ``size`` to the density of these, ``[]``."""
    order = order.to(windows.device)
    given, held_out = windows[order[:size]], windows[order[size : size + _HELD_OUT]]
    mean, middle = given.mean(0), windows.shape[2] // 2
    deviations = (given - mean).permute(1, 0, 2, 3).flatten(1, 2)
    rows = rows_of(deviations.mT @ deviations / windows.shape[2], form)
    own = mean[:, middle] if drawn is None else drawn.drawn(mean, size)
    others = (held_out[:, :, middle] - own).transpose(0, 1)
    left = others - (others @ rows.mT) @ rows
    return left.square().sum(2).sqrt().mean()
