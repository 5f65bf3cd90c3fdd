"""One Gaussian per location of a feature map, fitted from a stream of images (PaDiM's density)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fastalign.errors import ConfigError
from fastalign.nn.extended import Stored, extended, extended_low_rank
from fastalign.nn.fitted_gaussian import FITTED, LEAST, FittedGaussian, keeping_dtypes
from fastalign.nn.low_rank import LowRank, low_rank
from fastalign.nn.mean_prior import MeanPrior
from fastalign.nn.moments import Moments
from fastalign.nn.prior import SHRINKAGE, CovariancePrior
from fastalign.nn.state import own_state, require_unmapped
from fastalign.nn.whitening import check_finite, whiten
from fastalign.numeric import LARGEST_SHRINKAGE, real_number, whole_number, whole_pair

_STORAGE = (torch.float32, torch.bfloat16, torch.float16)


@contextmanager
def _plain_tensors() -> Iterator[None]:
    """No gradients, nor inference mode: what is made in it can never be scored against with
    gradients. Nor autocast, which would spoil the sums."""
    with own_state(making=True), torch.no_grad():
        yield


class DenseGaussian(FittedGaussian):
    """A Gaussian for each location of a feature map, and the distance to it.

    ``update`` it with batches of normal images, ``finalize`` it once, then call it. Memory does
    not depend on the number of images: ``4 C(C+1)/2`` bytes per location while fitting, the same
    again at ``finalize`` in float32 storage, and one of the two from then on. Nothing depends on
    how the images were split into batches, but for rounding.

    Scoring: the Mahalanobis distance ``sqrt((x - mean)^T cov^-1 (x - mean))`` with
    ``cov = sum of outer deviations / (n - 1) + shrinkage I`` (PaDiM, arXiv 2011.08785, section
    III-B). One image is legal: its covariance is ``shrinkage I``. With a :class:`CovariancePrior`
    given to ``finalize`` all locations together say how features vary.

    Arguments:
        channels: C of the features.
        size: H and W of the features.
        shrinkage: added to the variances. 0.01 is PaDiM's.
        min_count: locations that were valid in fewer images have no :attr:`support`; at least 1.
        storage: dtype of the whitener: float32, or bfloat16 or float16, which keep 8 and 11
            significant bits of each entry and halve the memory and what is read per image.

    State dict, present once fitted:
        mean: ``[C,H,W]`` float32.
        whitener: ``[H*W,C(C+1)/2]`` in ``storage``, or ``[H*W,R,C]`` of the low-rank form; see
            :func:`fastalign.ops.mahalanobis`.
        count: ``[H,W]`` int64, the images in which the location was valid.
        least_count: of the low-rank form, ``[]`` int64, the ``min_count`` of ``finalize``.

    Loaded into a new module of the same channels and size it is ready to score; the whitener is
    converted to that module's ``storage``. ``module.half()`` and the like move these tensors but
    leave their dtypes alone.

    Raises:
        ConfigError: arguments that make no sense.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        *,
        shrinkage: float = SHRINKAGE,
        min_count: int = 1,
        storage: torch.dtype = torch.float32,
    ) -> None:
        shape = "C and (H, W) of the features [B, C, H, W]"
        channels = whole_number("DenseGaussian: channels", channels, 1, because=shape)
        height, width = whole_pair("DenseGaussian: size", size, because=shape)
        shrinkage = real_number(
            "DenseGaussian: shrinkage", shrinkage, 0, LARGEST_SHRINKAGE, because="such as 0.01"
        )
        min_count = whole_number(
            "DenseGaussian: min_count",
            min_count,
            1,
            because="a location without any image has no distribution",
        )
        if storage not in _STORAGE:
            raise ConfigError(
                f"DenseGaussian: storage={storage}, expected torch.float32, torch.bfloat16 or "
                "torch.float16"
            )
        super().__init__(channels, (height, width), min_count=min_count, storage=storage)
        self.shrinkage = shrinkage
        self._sums: Moments | None = None

    # Fitting ---------------------------------------------------------------------------------

    def update(self, features: Tensor, valid: Tensor | None = None) -> DenseGaussian:
        """Take in a batch of images; returns the module.

        Arguments:
            features: ``[B,C,H,W]``, float32, float64, float16 or bfloat16, any strides; B may be 0.
                channels_last is read in its own order and is the faster one.
            valid: ``[B,H,W]`` bool; where it is False the location does not count, whatever
                ``features`` holds there, NaN included. None: all valid.

        Raises:
            ValueError, TypeError: arguments of the wrong shape, dtype or device.
            ConfigError: the module was finalized or loaded without its sums.
        """
        self.check_features(features)
        require_unmapped("DenseGaussian.update", "features", features)
        if valid is not None:
            self._check_valid(valid, features)
        with _plain_tensors():
            sums = self._open("update")
            if len(features):
                sums.add(features, valid)
        return self

    def merge(self, other: DenseGaussian) -> DenseGaussian:
        """Take in the images that ``other`` has seen; returns the module, leaves ``other`` alone.

        The same as having updated with them, to rounding, in any order and over any devices.

        Raises:
            ConfigError: other channels or size, or one of the two no longer has its sums.
        """
        if (other.channels, other.size) != (self.channels, self.size):
            raise ConfigError(
                f"DenseGaussian: cannot merge one of {other.channels} channels and size "
                f"{other.size} into one of {self.channels} channels and size {self.size}; fit "
                "both on the same layers and image size"
            )
        if other._sums is None:
            other._require_sums("merge")
            return self
        with _plain_tensors():
            self._open("merge").merge(other._sums)
        return self

    @property
    def sums(self) -> Moments | None:
        """The running sums by location, for those who join them in another way than ``merge``;
        None before the first image and once they are gone."""
        return self._sums

    def open_sums(self) -> Moments:
        """The running sums, made where there are none.

        Raises:
            ConfigError: the module was finalized or loaded without its sums.
        """
        with _plain_tensors():
            return self._open("merge")

    def finalize(
        self,
        *,
        keep: bool = False,
        min_count: int | None = None,
        prior: CovariancePrior | None = None,
        form: LowRank | None = None,
        mean_prior: MeanPrior | None = None,
    ) -> DenseGaussian:
        """Turn the sums into means and whiteners, in float64; returns the module.

        Arguments:
            keep: keep the sums, so that ``update``, ``merge`` and ``finalize`` may follow. Scores
                are those of the last ``finalize``. Default: free them.
            min_count: from here on, in place of that of the module.
            prior: of the covariances, for few images; None: each location's is its own.
            form: keep covariances as an identity and a few directions, with its own prior in place
                of ``prior`` and the shrinkage; None: packed factors of whole ones.
            mean_prior: what the means are drawn to; None: each is its location's own.

        Raises:
            ConfigError: no images; or a covariance that is not positive definite to the accuracy
                of its sums, which more shrinkage mends. The sums are then kept.
            ValueError: features that were NaN, infinite or too large to square; or a prior of other
                channels.
        """
        if min_count is not None:
            self.min_count = min_count
        if prior is not None and len(prior.covariance) != self.channels:
            raise ValueError(
                f"DenseGaussian: a prior of {len(prior.covariance)} channels for features of "
                f"{self.channels}; make it of samples of the same features"
            )
        if self._sums is None:
            self._require_sums("finalize")
            raise ConfigError(
                "DenseGaussian: finalize() before any image was seen; call update(features) first"
            )
        with _plain_tensors():
            sums = self._sums
            support = sums.count >= self.min_count
            check_finite(sums)
            earlier = self._buffers["whitener"]
            self._buffers["whitener"] = self._buffers["least_count"] = None
            if form is not None:
                self.whitener = low_rank(sums, self.size, form, self.storage)
                least = torch.tensor(self.min_count, device=support.device)
                self.least_count = least
            else:
                self.whitener = whiten(
                    sums,
                    support,
                    self.shrinkage,
                    self.storage,
                    into=None if earlier is None or earlier.dim() == 3 else earlier,
                    prior=prior,
                    keep=keep,
                    width=self.size[1],
                )
            mean = sums.mean
            if mean_prior is not None:
                mean = mean_prior.applied(mean, sums.count, self.size)
            self.mean = mean.t().float().contiguous().view(self.channels, *self.size)
            self.count = sums.count.view(self.size).clone()
            self._settle()
        if not keep:
            self._sums = None
        return self

    def extended(
        self,
        sums: Moments,
        *,
        strength: float = 0.0,
        shrinkage: float | None = None,
        min_count: int = 1,
        form: LowRank | None = None,
        mean_strength: float = 0.0,
    ) -> DenseGaussian:
        """A new one that has seen the images of ``sums`` besides, without the sums of the first;
        see :mod:`fastalign.nn.extended`.

        Arguments:
            sums: of more images, :attr:`sums` of one of the same channels and size.
            strength, shrinkage: of the prior and of the variances at ``finalize``; None: the
                module's shrinkage.
            min_count: images below which a location has no support.
            form: of one that is of low rank, in place of the three above but the last.
            mean_strength: of the prior of the means at ``finalize``, in photographs; it stays what
                it was then.

        Raises:
            ConfigError: not fitted; a form for packed factors, or none for others; or a covariance
                that is not positive definite.
            ValueError: sums of other channels or another size.
        """
        mean, whitener = self.require_fit()
        if sums.mean.shape != (len(whitener), self.channels):
            raise ValueError(
                f"DenseGaussian: sums of shape {list(sums.mean.shape)}, expected "
                f"{[len(whitener), self.channels]}, locations and channels"
            )
        if (self.rank is None) != (form is None):
            raise ConfigError(
                "DenseGaussian: extended() takes form where what is stored is of low rank, and "
                f"not elsewhere; rank is {self.rank} and form {form}"
            )
        stored = Stored(mean.flatten(1), whitener, self.count.flatten())
        with _plain_tensors():
            check_finite(sums)
            if form is not None:
                found = extended_low_rank(stored, sums, self.size, form, mean_strength)
            else:
                shrinkage = self.shrinkage if shrinkage is None else shrinkage
                found = extended(
                    stored,
                    sums,
                    strength=strength,
                    shrinkage=shrinkage,
                    min_count=min_count,
                    mean_strength=mean_strength,
                )
            joined = self.band(slice(None))
            joined.min_count = min_count
            tensors = {
                "mean": found.mean.view(self.channels, *self.size),
                "whitener": found.whitener,
                "count": found.images.view(self.size),
            }
            if form is not None:
                tensors[LEAST] = torch.tensor(min_count, device=whitener.device)
            joined.load_state_dict(tensors, assign=True)
        return joined

    # Bands of rows --------------------------------------------------------------------------

    def band(self, rows: slice) -> DenseGaussian:
        """A new one for the rows ``rows`` of the map alone, with the same options: for fits whose
        sums do not fit into memory as a whole."""
        height = len(range(*rows.indices(self.size[0])))
        band = DenseGaussian(
            self.channels,
            (height, self.size[1]),
            shrinkage=self.shrinkage,
            min_count=self.min_count,
            storage=self.storage,
        )
        return band.to(self._support.device)

    def put_band(self, rows: slice, band: DenseGaussian, first: int = 0) -> DenseGaussian:
        """Take over the fit of a :meth:`band`; returns the module, which is fitted once all its
        rows were put.

        Arguments:
            rows: of this module.
            first: where they begin in the band, which may have others around them.

        Raises:
            ConfigError: the band is not fitted, or of another size or channels.
        """
        mean, whitener = band.require_fit()
        indices = range(*rows.indices(self.size[0]))
        own = slice(first, first + len(indices))
        fits = (band.channels, band.size[1]) == (self.channels, self.size[1])
        if not fits or indices.step != 1 or not 0 <= first <= own.stop <= band.size[0]:
            raise ConfigError(
                f"DenseGaussian: rows from {first} of a band of {band.channels} channels and size "
                f"{band.size} put into rows {indices}, expected {self.channels} channels and width "
                f"{self.size[1]}, and {len(indices)} rows"
            )
        with _plain_tensors():
            self._allocate(rank=band.rank)
            width = self.size[1]
            locations = slice(indices.start * width, indices.stop * width)
            self.mean[:, rows] = mean[:, own]
            self.whitener[locations] = whitener[own.start * width : own.stop * width].to(
                self.storage
            )
            self.count[rows] = band.count[own]
            self.min_count = band.min_count
            if self.least_count is not None:
                self.least_count.fill_(band.min_count)
            self._sums = None
            self._settle()
        return self

    def reset(self) -> DenseGaussian:
        """Forget every image, fitted or not, as if new; returns the module."""
        self._sums = None
        return super().reset()

    def _open(self, action: str) -> Moments:
        """The sums, made on first use."""
        if self._sums is None:
            self._require_sums(action)
            locations = self.size[0] * self.size[1]
            self._sums = Moments(locations, self.channels, self._support.device)
        return self._sums

    def _require_sums(self, action: str) -> None:
        if self._sums is None and self.fitted:
            raise ConfigError(
                f"DenseGaussian: {action}() after finalize() or loading, when the sums are gone; "
                "fit with finalize(keep=True) to go on, or reset() to begin anew"
            )

    def extra_repr(self) -> str:
        return (
            f"{self.channels}, size={self.size}, shrinkage={self.shrinkage:g}, "
            f"min_count={self.min_count}, storage={self.storage}, fitted={self.fitted}"
        )

    @staticmethod
    def _check_valid(valid: Tensor, features: Tensor) -> None:
        batch, _, height, width = features.shape
        if valid.shape != (batch, height, width):
            raise ValueError(
                f"DenseGaussian: valid has shape {list(valid.shape)}, expected "
                f"{[batch, height, width]}, [B, H, W] of the features"
            )
        if valid.dtype != torch.bool:
            raise TypeError(
                f"DenseGaussian: valid has dtype {valid.dtype}, expected torch.bool (True where "
                "valid); compare, for example mask > 0"
            )
        if valid.device != features.device:
            raise ValueError(
                f"DenseGaussian: valid is on {valid.device}, expected {features.device} where the "
                "features are; move it with valid.to(features.device)"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DenseGaussian:
        super()._apply(fn, recurse)
        if self._sums is not None:
            self._sums.apply(keeping_dtypes(fn))
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        if any(prefix + name in state_dict for name in FITTED):
            self._sums = None
