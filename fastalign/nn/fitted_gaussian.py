"""A fitted Gaussian per location of a feature map: its tensors, and the distance to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastalign.errors import ConfigError
from fastalign.nn.state import in_own_state
from fastalign.ops import checks
from fastalign.ops.mahalanobis import mahalanobis

if TYPE_CHECKING:
    from typing_extensions import Self

FITTED = ("mean", "whitener", "count")
# With whiteners of the low-rank form, which have no value that says where there is no support.
LEAST = "least_count"


class FittedGaussian(nn.Module):
    """The part of :class:`fastalign.nn.DenseGaussian` that scores and is stored.

    Arguments:
        channels, size, min_count, storage: as there, checked there.
    """

    # None as long as :attr:`fitted` is False, and so not what ``ops.mahalanobis`` may be given.
    mean: Tensor
    whitener: Tensor
    count: Tensor
    least_count: Tensor | None
    _support: Tensor

    def __init__(
        self, channels: int, size: tuple[int, int], *, min_count: int, storage: torch.dtype
    ) -> None:
        super().__init__()
        self.channels = channels
        self.size = (size[0], size[1])
        self.min_count = min_count
        self.storage = storage
        for name in (*FITTED, LEAST):
            self.register_buffer(name, None)
        # Also tells where the module is as long as it has no other tensor.
        self.register_buffer("_support", torch.zeros(size, dtype=torch.bool), persistent=False)
        self._supported_everywhere = False

    @property
    def fitted(self) -> bool:
        """Whether it is ready to score."""
        return self._buffers["whitener"] is not None

    @property
    def support(self) -> Tensor:
        """``[H,W]`` bool: True where enough images were valid (``min_count``) at ``finalize``."""
        self.require_fit()
        return self._support

    @property
    def supported_everywhere(self) -> bool:
        """Whether :attr:`support` is True at every location; no wait for the device."""
        return self._supported_everywhere

    @in_own_state
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
        mean, whitener, support = self._rows(rows)
        self.check_features(features, support.shape[0])
        if features.dtype == torch.float64:
            mean, whitener = mean.double(), whitener.double()
        if self._supported_everywhere:
            return mahalanobis(features, mean, whitener)
        outside = ~support
        # Before and after: NaN must reach neither the distance nor a gradient.
        distance = mahalanobis(features.masked_fill(outside, 0), mean, whitener)
        return distance.masked_fill(outside, 0)

    if TYPE_CHECKING:  # nn.Module types calls as Any
        __call__ = forward

    @in_own_state
    def scaled(
        self,
        features: Tensor,
        scale: Tensor,
        coarse: Tensor | None = None,
        rows: slice | None = None,
    ) -> Tensor:
        """Distances as :meth:`forward` gives them times ``scale [H,W]``, in one step: for features
        that nothing learns through.

        Arguments:
            features: as there, float32.
            scale: float32; it counts as 0 without :attr:`support`.
            coarse: ``[B,C,h,w]``, what is upsampled and added to the features; without ``rows``.
            rows: as there, for the scale as well.
        """
        mean, whitener, support = self._rows(rows)
        self.check_features(features, support.shape[0])
        if not self._supported_everywhere:
            scale = torch.where(support, scale, 0)
        return mahalanobis(features, mean, whitener, coarse=coarse, scale=scale)

    def _rows(self, rows: slice | None) -> tuple[Tensor, Tensor, Tensor]:
        """mean, whitener and support of some rows of the map."""
        mean, whitener = self.require_fit()
        if rows is None:
            return mean, whitener, self._support
        first, last, step = rows.indices(self.size[0])
        if step != 1:
            raise ValueError(f"DenseGaussian: rows={rows}, expected consecutive ones")
        width = self.size[1]
        support = self._support[first:last]
        return mean[:, first:last], whitener[first * width : last * width], support

    # State -----------------------------------------------------------------------------------

    def reset(self) -> Self:
        """Forget the fit; returns the module."""
        for name in (*FITTED, LEAST):
            setattr(self, name, None)
        self._settle()
        return self

    @property
    def rank(self) -> int | None:
        """R of the low-rank form; None: a packed factor, or no fit."""
        return self.whitener.shape[1] if self.fitted and self.whitener.dim() == 3 else None

    def _allocate(self, make: Callable[..., Tensor] = torch.zeros, rank: int | None = None) -> None:
        """The tensors of a fit, of the low-rank form with ``rank``, 0 where they are not there yet,
        or as ``make`` leaves them."""
        if self.fitted and self.rank != rank:
            self.reset()
        if self.fitted:
            return
        locations, device = self.size[0] * self.size[1], self._support.device
        shape: tuple[int, ...] = (locations, self.channels * (self.channels + 1) // 2)
        if rank is not None:
            shape = (locations, rank, self.channels)
            self.least_count = make((), dtype=torch.int64, device=device)
        self.mean = make((self.channels, *self.size), device=device)
        self.whitener = make(shape, dtype=self.storage, device=device)
        self.count = make(self.size, dtype=torch.int64, device=device)

    def _settle(self) -> None:
        """Derive the support from the fitted tensors, once per fit and not once per image."""
        support = torch.zeros(self.size, dtype=torch.bool, device=self._support.device)
        if self.fitted:
            support = self.count >= self.min_count
            if self.least_count is not None:
                support &= self.count >= self.least_count
            else:
                # 0 where the count was below that of finalize().
                support &= self.whitener[:, 0].view(self.size) > 0
        self._support = support
        self._supported_everywhere = not support.is_meta and bool(support.all())

    def require_fit(self) -> tuple[Tensor, Tensor]:
        """mean and whitener; :class:`ConfigError` where there is no fit."""
        if not self.fitted:
            raise ConfigError(
                "DenseGaussian: not fitted; call update(features) on normal images and then "
                "finalize(), or load a fitted state dict"
            )
        return self.mean, self.whitener

    def check_features(self, features: Tensor, rows: int | None = None) -> None:
        """Raise :class:`ValueError` or :class:`TypeError` where features do not fit the module."""
        checks.dense("DenseGaussian", "features", features)
        shape = (self.channels, self.size[0] if rows is None else rows, self.size[1])
        if features.dim() != 4 or features.shape[1:] != shape:
            expected = ", ".join(map(str, shape))
            raise ValueError(
                f"DenseGaussian: features have shape {list(features.shape)}, expected "
                f"[B, {expected}]; give maps of the layers and the image size it was made for"
            )
        checks.floating("DenseGaussian", "features", features)
        if features.device != self._support.device:
            raise ValueError(
                f"DenseGaussian: features are on {features.device}, the module is on "
                f"{self._support.device}; move it with .to({str(features.device)!r})"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(keeping_dtypes(fn), recurse)
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
        given = [name for name in FITTED if prefix + name in state_dict]
        if given:
            whitener = state_dict.get(prefix + "whitener")
            # Replaced as they are or written over whole: zeros would take their memory once more.
            low = prefix + LEAST in state_dict and getattr(whitener, "ndim", 0) == 3
            self._allocate(torch.empty, state_dict[prefix + "whitener"].shape[1] if low else None)
        problems = len(error_msgs)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if not given:
            # Not fitted when it was saved; a module that is fitted misses its three tensors.
            return
        if len(error_msgs) > problems or len(given) < len(FITTED):
            # Half a fit must not score.
            self.reset()
        else:
            self._settle()


def keeping_dtypes(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``fn`` of ``Module._apply`` without what it does to dtypes."""

    def move(tensor: Tensor) -> Tensor:
        moved = fn(tensor)
        # The op wants the mean in float32 whatever the features are, and the whitener's dtype is
        # chosen by ``storage``: both are more than a cast to 16 bits could keep.
        return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

    return move
