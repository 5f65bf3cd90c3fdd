"""What the mean of a location is drawn to: the means around it, or that of the whole map."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastalign.errors import ConfigError
from fastalign.nn.pooled import deviations_of, means_of, window_sums
from fastalign.numeric import LARGEST_PRIOR, real_number, whole_number
from fastalign.ops import checks

CHOICES = ("auto", "own", "neighbours", "map")
_FOLDS = 5
# Of a mean at most so much is the prior's: what photographs show is never left out altogether.
_LARGEST_SHARE = 0.95


@dataclass(frozen=True)
class MeanPrior:
    """A prior of the means, in photographs. Ours, after James and Stein (1961): its strength is the
    one that held-out photographs ask for.

    With n photographs of a location whose mean is m the density's mean is::

        (n m + strength p) / (n + strength)

    where p is the mean of what lies around the location (``"neighbours"``), or that of the whole
    map (``"map"``), which suits textures: there no place is another.

    Attributes:
        towards: which of the two.
        strength: in photographs, above 0.
        gain: the share of the squared deviations of held-out photographs that it takes away.
        radius: of the window, in locations; 0 for the whole map.
        mean: ``[C]`` float64, that of the whole map; None for neighbours.

    Raises:
        ConfigError: a number out of its range, or another ``towards``.
    """

    towards: str
    strength: float
    gain: float = 0.0
    radius: int = 0
    mean: Tensor | None = None

    def __post_init__(self) -> None:
        _check(self.towards, CHOICES[2:])
        real_number("MeanPrior: strength", self.strength, 0, LARGEST_PRIOR, because="photographs")
        least = 1 if self.towards == "neighbours" else 0
        whole_number("MeanPrior: radius", self.radius, least, because="locations")
        if (self.mean is None) != (self.towards == "neighbours"):
            raise ConfigError("MeanPrior: mean is that of the whole map, for towards='map' alone")

    @classmethod
    def of_samples(
        cls,
        samples: Tensor,
        valid: Tensor,
        windows: Tensor,
        windows_valid: Tensor,
        towards: str = "auto",
    ) -> MeanPrior | None:
        """The prior that samples of some locations tell; None where held-out photographs are no
        nearer to any.

        The mean of a fold of photographs lies ``b - a`` from that of the others, a, and the prior's
        p lies ``p - a`` from it. The share of the way to p that takes most of the squared distance
        away is the regression of the one on the other. For features that vary alike in every
        direction this is the held-out Gaussian log likelihood; noise that neighbours have in common
        is in both of a and p and so in neither difference.

        Args:
            samples: ``[N,L,C]``, features of N photographs at L locations spread over the map.
            valid: ``[N,L]`` bool.
            windows: ``[N,M,K,C]``, at M locations and those around them, K in all, an odd square,
                with the location itself in the middle; M or K 0, or K 1: no neighbours are known.
            windows_valid: ``[N,M,K]`` bool.
            towards: ``"auto"``: what takes more away; or the only candidate; ``"own"``: none.

        Raises:
            ValueError: samples of another shape.
            ConfigError: another ``towards``.
        """
        checks.floating("MeanPrior", "samples", samples)
        if samples.dim() != 3 or windows.dim() != 4:
            raise ValueError(
                f"MeanPrior: samples have shape {list(samples.shape)} and windows "
                f"{list(windows.shape)}, expected [N, L, C] and [N, M, K, C]"
            )
        _check(towards, CHOICES)
        found: list[tuple[_Drawn, dict[str, Any]]] = []
        with torch.no_grad():
            if towards in ("auto", "map") and samples.shape[1] > 1:
                drawn = _regression(samples.double(), valid, None)
                _, mean, freedom = deviations_of(samples.double(), valid)
                whole = mean[freedom > 0].mean(0) if bool((freedom > 0).any()) else mean.mean(0)
                found.append((drawn, {"towards": "map", "mean": whole}))
            side = math.isqrt(windows.shape[2])
            if towards in ("auto", "neighbours") and windows.shape[1] and side > 1:
                drawn = _regression(windows.double(), windows_valid, windows.shape[2] // 2)
                found.append((drawn, {"towards": "neighbours", "radius": side // 2}))
        found = [one for one in found if one[0].strength > 0]
        if not found:
            return None
        drawn, options = max(found, key=lambda one: one[0].gain)
        return cls(strength=drawn.strength, gain=drawn.gain, **options)

    def applied(self, mean: Tensor, count: Tensor, size: tuple[int, int]) -> Tensor:
        """The means ``[H*W,C]`` that those of photographs, ``mean [H*W,C]`` of ``count [H*W]``, are
        drawn to; without photographs the prior's, or where it knows none as they are."""
        seen = (count > 0).to(mean.dtype)
        if self.mean is not None:
            prior, known = self.mean.to(mean).expand_as(mean), torch.ones_like(seen)
        else:
            total = _around(mean * seen[:, None], size, self.radius)
            number = _around(seen[:, None], size, self.radius)
            prior, known = total / number.clamp_min(1), (number[:, 0] > 0).to(mean.dtype)
        share = known * self.strength / (count + self.strength)
        return torch.where(share[:, None] > 0, torch.lerp(mean, prior, share[:, None]), mean)

    def drawn(self, window: Tensor, number: int) -> Tensor:
        """Of means ``[L,K,C]`` of so many photographs in windows around L locations, those in the
        middle as :meth:`applied` gives them, ``[L,C]``."""
        middle = window.shape[1] // 2
        own = window[:, middle]
        if self.mean is not None:
            prior = self.mean.to(own)
        elif window.shape[1] > 1:
            prior = (window.sum(1) - own) / (window.shape[1] - 1)
        else:
            return own
        return torch.lerp(own, prior.expand_as(own), self.strength / (number + self.strength))

    def to_json(self) -> dict[str, Any]:
        """What is told of it, as plain data."""
        return {"towards": self.towards, "strength": self.strength, "gain": self.gain}


def stored_strength(prior: Mapping[str, Any] | None) -> float:
    """Of the ``prior`` of a fit's record the strength of that of the means, in photographs."""
    mean = (prior or {}).get("mean")
    return 0.0 if mean is None else float(mean["strength"])


def _check(towards: str, known: tuple[str, ...]) -> None:
    if towards not in known:
        raise ConfigError(f"MeanPrior: towards {towards!r}; use one of {', '.join(known)}")


class _Drawn(NamedTuple):
    strength: float
    gain: float


def _regression(values: Tensor, valid: Tensor, middle: int | None) -> _Drawn:
    """What held-out photographs ask for of values ``[N,L,C]`` drawn to the mean of all L, or of
    ``[N,M,K,C]`` whose ``middle`` is drawn to the mean of the others of the K."""
    number = len(values)
    folds = min(_FOLDS, number)
    along = total = apart = images = places = 0.0
    fold_of = torch.arange(number, device=values.device) % max(1, folds)
    for fold in range(folds if number > 1 else 0):
        held_out = fold_of == fold
        others, counts = means_of(values[~held_out], valid[~held_out])
        if middle is None:
            own, own_counts = others, counts
            judged, judged_valid = values[held_out], valid[held_out]
            known = (counts > 0).double()
            prior = (others * known[:, None]).sum(0) / known.sum().clamp_min(1)
            told = known.sum() > 1
        else:
            own, own_counts = others[:, middle], counts[:, middle]
            judged, judged_valid = values[held_out][:, :, middle], valid[held_out][:, :, middle]
            known = (counts > 0).double()
            known[:, middle] = 0
            prior = (others * known[..., None]).sum(1) / known.sum(1).clamp_min(1)[:, None]
            told = known.sum(1) > 0
        usable = judged_valid & (own_counts > 0) & told
        deviations = torch.where(usable[..., None], judged - own, 0)
        way = prior - own
        times = usable.sum(0).double()
        along += float((deviations.sum(0) * way).sum())
        total += float((times * way.square().sum(1)).sum())
        apart += float(deviations.square().sum())
        images += float((times * own_counts).sum())
        places += float(times.sum())
    if not (along > 0 and total > 0 and apart > 0):
        return _Drawn(0.0, 0.0)
    share = min(along / total, _LARGEST_SHARE)
    strength = share / (1 - share) * images / places
    gain = (2 * share * along - share**2 * total) / apart
    return _Drawn(min(strength, LARGEST_PRIOR), gain)


def _around(values: Tensor, size: tuple[int, int], radius: int) -> Tensor:
    """Sums ``[H*W,K]`` of values ``[H*W,K]`` over the windows around each location, without it."""
    maps = values.t().reshape(-1, *size)
    return (window_sums(maps, radius) - maps).flatten(1).t()
