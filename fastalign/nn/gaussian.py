"""One Gaussian per location of a feature map, fitted from a stream of images (PaDiM's density)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastalign.errors import ConfigError
from fastalign.nn.moments import Moments, PackedTriangle, runs, runs_native
from fastalign.ops import native
from fastalign.ops.mahalanobis import mahalanobis

_STORAGE = (torch.float32, torch.bfloat16, torch.float16)
_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_FITTED = ("mean", "whitener", "count")


@contextmanager
def _plain_tensors() -> Iterator[None]:
    """No gradients, nor inference mode: what is made in it can never be scored against with
    gradients."""
    with torch.inference_mode(False), torch.no_grad():
        yield


class DenseGaussian(nn.Module):
    """A Gaussian for each location of a feature map, and the distance to it.

    ``update`` it with batches of normal images, ``finalize`` it once, then call it. Memory does
    not depend on the number of images: ``4 C(C+1)/2`` bytes per location while fitting, the same
    again at ``finalize`` in float32 storage, and one of the two from then on. Nothing depends on
    how the images were split into batches, but for rounding.

    Scoring: the Mahalanobis distance ``sqrt((x - mean)^T cov^-1 (x - mean))`` with
    ``cov = sum of outer deviations / (n - 1) + shrinkage I`` (PaDiM, arXiv 2011.08785, section
    III-B). One image is legal: its covariance is ``shrinkage I``.

    Arguments:
        channels: C of the features.
        size: H and W of the features.
        shrinkage: added to the variances. 0.01 is PaDiM's.
        min_count: locations that were valid in fewer images have no :attr:`support`; at least 1.
        storage: dtype of the whitener: float32, or bfloat16 or float16, which keep 8 and 11
            significant bits of each entry and halve the memory and what is read per image.

    State dict, present once fitted:
        mean: ``[C,H,W]`` float32.
        whitener: ``[H*W,C(C+1)/2]`` in ``storage``; see :func:`fastalign.ops.mahalanobis`.
        count: ``[H,W]`` int64, the images in which the location was valid.

    Loaded into a new module of the same channels and size it is ready to score; the whitener is
    converted to that module's ``storage``. ``module.half()`` and the like move these tensors but
    leave their dtypes alone.

    Raises:
        ConfigError: arguments that make no sense.
    """

    mean: Tensor | None
    whitener: Tensor | None
    count: Tensor | None
    _support: Tensor

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        *,
        shrinkage: float = 0.01,
        min_count: int = 1,
        storage: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        height, width = size
        if min(channels, height, width) < 1:
            raise ConfigError(
                f"DenseGaussian: channels={channels} and size={tuple(size)}, expected at least 1 "
                "each; give C and (H, W) of the features [B, C, H, W]"
            )
        if not (math.isfinite(shrinkage) and shrinkage >= 0):
            raise ConfigError(
                f"DenseGaussian: shrinkage={shrinkage}, expected a number of at least 0, such as "
                "0.01"
            )
        if min_count < 1:
            raise ConfigError(
                f"DenseGaussian: min_count={min_count}, expected at least 1: a location without "
                "any image has no distribution"
            )
        if storage not in _STORAGE:
            raise ConfigError(
                f"DenseGaussian: storage={storage}, expected torch.float32, torch.bfloat16 or "
                "torch.float16"
            )
        self.channels = channels
        self.size = (height, width)
        self.shrinkage = float(shrinkage)
        self.min_count = min_count
        self.storage = storage
        for name in _FITTED:
            self.register_buffer(name, None)
        # Also tells where the module is as long as it has no other tensor.
        self.register_buffer("_support", torch.zeros(size, dtype=torch.bool), persistent=False)
        self._supported_everywhere = False
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
        self._check_features(features)
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

    def finalize(self, *, keep: bool = False) -> DenseGaussian:
        """Turn the sums into means and whiteners, in float64; returns the module.

        Arguments:
            keep: keep the sums, so that ``update``, ``merge`` and ``finalize`` may follow. Scores
                are those of the last ``finalize``. Default: free them.

        Raises:
            ConfigError: no images; or a covariance that is not positive definite to the accuracy
                of its sums, which more shrinkage mends. The sums are then kept.
            ValueError: features that were NaN, infinite or too large to square.
        """
        if self._sums is None:
            self._require_sums("finalize")
            raise ConfigError(
                "DenseGaussian: finalize() before any image was seen; call update(features) first"
            )
        with _plain_tensors():
            sums = self._sums
            support = sums.count >= self.min_count
            self._check_finite(sums)
            whitener = self._whiteners(sums, support, keep)
            self.whitener = whitener
            self.mean = sums.mean.t().float().contiguous().view(self.channels, *self.size)
            self.count = sums.count.view(self.size).clone()
            self._settle()
        if not keep:
            self._sums = None
        return self

    def _whiteners(self, sums: Moments, support: Tensor, keep: bool) -> Tensor:
        """Packed inverse Cholesky factors ``[H*W,C(C+1)/2]``; 0 where there is no support.

        They take the place of an earlier fit's, or of the sums where these are not kept: twice may
        be more than there is room for.
        """
        whitener, self.whitener = self.whitener, None
        singular = torch.zeros_like(support)
        if self.shrinkage == 0:
            singular = support & (sums.count <= self.channels)
        if runs_native("whiten_", sums.outer):
            lost = torch.empty_like(support)
            share = 1 / (sums.count - 1).clamp_min(1).double()
            kernel = native.kernel("whiten_")
            if whitener is None and not keep and self.storage == sums.outer.dtype:
                # A look beforehand, since an error leaves the sums as they are.
                nothing = sums.outer.new_empty(0)
                kernel(nothing, lost, sums.outer, share, support, self.shrinkage)
                self._report_singular(singular | lost, sums.count)
                whitener = sums.outer
            elif whitener is None:
                whitener = torch.empty_like(sums.outer, dtype=self.storage)
            kernel(whitener, lost, sums.outer, share, support, self.shrinkage)
            singular |= lost
        else:
            if whitener is None:
                whitener = torch.empty_like(sums.outer, dtype=self.storage)
            self._whiten(sums, support, whitener, singular)
        self._report_singular(singular, sums.count)
        pieces = runs(len(whitener), whitener.shape[1], whitener.device)
        if not all(bool(whitener[run].isfinite().all()) for run in pieces):
            raise ConfigError(
                f"DenseGaussian: the whitener leaves the range of {self.storage} with shrinkage="
                f"{self.shrinkage}; use more shrinkage, or storage=torch.bfloat16 or torch.float32"
            )
        return whitener

    def _whiten(self, sums: Moments, support: Tensor, whitener: Tensor, singular: Tensor) -> None:
        """Fill ``whitener`` and mark what is ``singular``, with torch's own factorization."""
        device = sums.outer.device
        triangle = PackedTriangle(self.channels, device)
        identity = torch.eye(self.channels, dtype=torch.float64, device=device)
        # A covariance, its factor, the inverse and a triangle, in float64.
        for run in runs(len(support), 8 * self.channels**2, device):
            count = sums.count[run]
            share = 1 / (count - 1).clamp_min(1).double()
            covariance = triangle.symmetric(sums.outer[run].double() * share.unsqueeze(-1))
            variances = covariance.diagonal(dim1=1, dim2=2)
            variances += self.shrinkage
            factor, info = torch.linalg.cholesky_ex(covariance)
            # A pivot below the rounding of the float32 sums says nothing, even a positive one.
            pivots = factor.diagonal(dim1=1, dim2=2).square()
            lost = (pivots <= torch.finfo(torch.float32).eps * variances).any(1) | (info != 0)
            singular[run] |= lost & support[run]
            # No result comes from these; dividing by a zero pivot would only make NaN.
            factor = torch.where(lost[:, None, None], identity, factor)
            inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
            inverse = torch.where(support[run, None, None], inverse, 0)
            whitener[run] = triangle.pack(inverse)

    def _report_singular(self, singular: Tensor, count: Tensor) -> None:
        if not singular.any():
            return
        where = int(singular.nonzero()[0])
        row, column = divmod(where, self.size[1])
        raise ConfigError(
            f"DenseGaussian: the covariance is not positive definite at {int(singular.sum())} of "
            f"{singular.numel()} locations (the first: row {row}, column {column}, "
            f"{int(count[where])} images for {self.channels} channels) with shrinkage="
            f"{self.shrinkage}; use more shrinkage (0.01 is the default; it has to stand out from "
            "the variances by more than 1e-7 of them), or more images than channels"
        )

    def _check_finite(self, sums: Moments) -> None:
        diagonal = PackedTriangle(self.channels, sums.outer.device).diagonal
        variances = sums.outer.index_select(1, diagonal)
        finite = sums.mean.isfinite().all(1) & variances.isfinite().all(1)
        if not finite.all():
            raise ValueError(
                f"DenseGaussian: the features were NaN, infinite or too large to square at "
                f"{int((~finite).sum())} of {finite.numel()} locations; check the images and the "
                "network, or mark what has no value as not valid in update(features, valid)"
            )

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

    def put_band(self, rows: slice, band: DenseGaussian) -> DenseGaussian:
        """Take over the fit of a :meth:`band`; returns the module, which is fitted once all its
        rows were put.

        Raises:
            ConfigError: the band is not fitted, or of another size or channels.
        """
        mean, whitener = band._require_fit()
        indices = range(*rows.indices(self.size[0]))
        expected = (self.channels, (len(indices), self.size[1]))
        if (band.channels, band.size) != expected or indices.step != 1:
            raise ConfigError(
                f"DenseGaussian: a band of {band.channels} channels and size {band.size} put into "
                f"rows {indices}, expected {expected[0]} channels and size {expected[1]}"
            )
        with _plain_tensors():
            self._allocate()
            assert self.mean is not None and self.whitener is not None and self.count is not None
            width = self.size[1]
            locations = slice(indices.start * width, indices.stop * width)
            self.mean[:, rows] = mean
            self.whitener[locations] = whitener.to(self.storage)
            assert band.count is not None
            self.count[rows] = band.count
            self.min_count = band.min_count
            self._sums = None
            self._settle()
        return self

    def _allocate(self) -> None:
        """The tensors of a fit, 0 where they are not there yet."""
        if not self.fitted:
            locations = self.size[0] * self.size[1]
            packed = self.channels * (self.channels + 1) // 2
            device = self._support.device
            self.mean = torch.zeros((self.channels, *self.size), device=device)
            self.whitener = torch.zeros((locations, packed), dtype=self.storage, device=device)
            self.count = torch.zeros(self.size, dtype=torch.int64, device=device)

    def reset(self) -> DenseGaussian:
        """Forget every image, fitted or not, as if new; returns the module."""
        self._sums = None
        self.mean = self.whitener = self.count = None
        self._settle()
        return self

    # Scoring ---------------------------------------------------------------------------------

    @property
    def fitted(self) -> bool:
        """Whether it is ready to score."""
        return self.whitener is not None

    @property
    def support(self) -> Tensor:
        """``[H,W]`` bool: True where enough images were valid (``min_count``) at ``finalize``."""
        self._require_fit()
        return self._support

    @property
    def supported_everywhere(self) -> bool:
        """Whether :attr:`support` is True at every location; no wait for the device."""
        return self._supported_everywhere

    def forward(self, features: Tensor, rows: slice | None = None) -> Tensor:
        """Distance of each location of features ``[B,C,H,W]`` to its Gaussian.

        Arguments:
            features: float32, float64, float16 or bfloat16, any strides.
            rows: consecutive rows of the map; ``features`` are then those of these rows alone.

        Returns:
            ``[B,H,W]``, float32, or float64 for float64; 0 without :attr:`support`, whatever
            ``features`` holds there. Differentiable in the features.

        Raises:
            ConfigError: not fitted.
            ValueError, TypeError: features of the wrong shape, dtype or device.
        """
        mean, whitener = self._require_fit()
        support = self._support
        if rows is not None:
            first, last, step = rows.indices(self.size[0])
            if step != 1:
                raise ValueError(f"DenseGaussian: rows={rows}, expected consecutive ones")
            width = self.size[1]
            mean, support = mean[:, first:last], support[first:last]
            whitener = whitener[first * width : last * width]
        self._check_features(features, support.shape[0])
        if features.dtype == torch.float64:
            mean, whitener = mean.double(), whitener.double()
        if self._supported_everywhere:
            return mahalanobis(features, mean, whitener)
        outside = ~support
        # Before and after: NaN must reach neither the distance nor a gradient.
        distance = mahalanobis(features.masked_fill(outside, 0), mean, whitener)
        return distance.masked_fill(outside, 0)

    def extra_repr(self) -> str:
        return (
            f"{self.channels}, size={self.size}, shrinkage={self.shrinkage:g}, "
            f"min_count={self.min_count}, storage={self.storage}, fitted={self.fitted}"
        )

    # State -----------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Derive the support from the fitted tensors, once per fit and not once per image."""
        support = torch.zeros(self.size, dtype=torch.bool, device=self._support.device)
        if self.count is not None and self.whitener is not None:
            # A whitener that was finalized with a greater min_count is 0 where that was missed.
            known = self.whitener[:, 0].view(self.size) > 0
            support = (self.count >= self.min_count) & known
        self._support = support
        self._supported_everywhere = not support.is_meta and bool(support.all())

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

    def _require_fit(self) -> tuple[Tensor, Tensor]:
        if self.mean is None or self.whitener is None:
            raise ConfigError(
                "DenseGaussian: not fitted; call update(features) on normal images and then "
                "finalize(), or load a fitted state dict"
            )
        return self.mean, self.whitener

    def _check_features(self, features: Tensor, rows: int | None = None) -> None:
        shape = (self.channels, self.size[0] if rows is None else rows, self.size[1])
        if features.dim() != 4 or features.shape[1:] != shape:
            expected = ", ".join(map(str, shape))
            raise ValueError(
                f"DenseGaussian: features have shape {list(features.shape)}, expected "
                f"[B, {expected}]; give maps of the layers and the image size it was made for"
            )
        if features.dtype not in _FLOATS:
            raise TypeError(
                f"DenseGaussian: features have dtype {features.dtype}, expected float32, float64, "
                "float16 or bfloat16; convert them, for example with features.float()"
            )
        if features.device != self._support.device:
            raise ValueError(
                f"DenseGaussian: features are on {features.device}, the module is on "
                f"{self._support.device}; move it with .to({str(features.device)!r})"
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
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            # The op wants the mean in float32 whatever the features are, and the whitener's dtype
            # is chosen by ``storage``: both are more than a cast to 16 bits could keep.
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(move, recurse)
        if self._sums is not None:
            self._sums.apply(move)
        return self

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        given = [name for name in _FITTED if prefix + name in state_dict]
        if given:
            self._allocate()
        problems = len(error_msgs)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if not given:
            # Not fitted when it was saved; a module that is fitted misses its three tensors.
            return
        if len(error_msgs) > problems or len(given) < len(_FITTED):
            # Half a fit must not score.
            self.reset()
        else:
            self._sums = None
            self._settle()
