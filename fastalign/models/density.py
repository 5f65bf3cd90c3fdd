"""The third room: how far the features of each location are from those of normal images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from fastalign.models.names import under
from fastalign.models.pieces import feature_bands, split_rows
from fastalign.nn.fitted_gaussian import keeping_dtypes
from fastalign.nn.gaussian import DenseGaussian
from fastalign.nn.prior import SHRINKAGE
from fastalign.nn.smoothing import interpolated, interpolated_rows
from fastalign.nn.state import in_own_state
from fastalign.numeric import whole_number

# On a GPU the distances of so many images are quicker from channels_last, those of fewer are not.
_LARGE_BATCH = 8


class Distance(NamedTuple):
    """distance ``[B,h,w]`` of each location, calibrated; support ``[h,w]`` bool, the locations that
    enough training images showed; None: all of them."""

    distance: Tensor
    support: Tensor | None


class FeatureDensity(nn.Module):
    """A Gaussian for each location over features of all stages: some of their channels, or some
    directions that all of them make up.

    Arguments:
        stage_channels: of the stages; :attr:`wanted` says what :meth:`forward` wants of them.
        size: height and width of the map, those of the first stage.
        channels: how many features there are; 0 for as many as the stages have channels.
        shrinkage, storage: of :class:`fastalign.nn.DenseGaussian`.

    Attributes:
        gaussians: the fitted Gaussians.
        selection: ``[C]`` int64, ascending, indices into the channels of all stages.
        directions: ``[C,K]`` float32, each feature as a sum over the K channels of all stages;
            None: features are the selected channels.
        calibration: ``[h,w]``, what distances are multiplied with.
        wanted: by stage the selected channels, indices ``[K_i]``, or what its channels add to each
            feature, ``[C,K_i]`` float32.
        bands: rows of the map that are described and scored at once.
    """

    selection: Tensor
    directions: Tensor | None
    calibration: Tensor

    def __init__(
        self,
        stage_channels: Sequence[int],
        size: tuple[int, int],
        *,
        channels: int = 0,
        shrinkage: float = SHRINKAGE,
        storage: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.size = size
        self.stage_channels = tuple(stage_channels)
        total = sum(stage_channels)
        self.channels = min(whole_number("channels", channels) or total, total)
        self.register_buffer("selection", torch.arange(self.channels))
        self.register_buffer("directions", None)
        self.gaussians = DenseGaussian(self.channels, size, shrinkage=shrinkage, storage=storage)
        self.register_buffer("calibration", torch.ones(size))
        self.bands = split_rows(size[0], feature_bands(size, self.channels))
        self.settle()
        self.register_load_state_dict_post_hook(_settle_again)

    @in_own_state
    def forward(self, stages: Sequence[Tensor]) -> Distance:
        """Distances of stages as :attr:`wanted`: selected channels ``[B,K_i,H_i,W_i]``, or what
        each adds to the features, ``[B,C,H_i,W_i]``.

        Where features are sums over the stages and one of these is coarser than the map, it is
        upsampled where distances are taken, so that the features never exist. Else, and where a
        gradient goes through them, they are made, of one large image in bands of rows, since all of
        them are never needed at once.

        Raises:
            ConfigError: not fitted.
        """
        learns = torch.is_grad_enabled() and any(stage.requires_grad for stage in stages)
        parts = None if learns else self._fine_and_coarse(stages)
        if parts is not None:
            fine, coarse = parts
            return Distance(self.gaussians.scaled(fine, self.calibration, coarse), self.support)
        whole = len(self.bands) == 1 or torch.compiler.is_compiling()
        bands = []
        for rows in [None] if whole else self.bands:
            features = self.describe(stages, rows)
            if learns:
                bands.append(self.gaussians(features, rows))
            else:
                scale = self.calibration if rows is None else self.calibration[rows]
                bands.append(self.gaussians.scaled(features, scale, rows=rows))
        distance = bands[0] if whole else torch.cat(bands, 1)
        return Distance(distance * self.calibration if learns else distance, self.support)

    if TYPE_CHECKING:  # nn.Module types calls as Any
        __call__ = forward

    def _fine_and_coarse(self, stages: Sequence[Tensor]) -> tuple[Tensor, Tensor] | None:
        """What all stages of the map's size add to the features, and the one that is not; None
        where there is another number of these, or features are no sums."""
        if self.directions is None:
            return None
        fine = [
            stage.float() for stage in stages if stage.shape[1] and stage.shape[2:] == self.size
        ]
        coarse = [stage for stage in stages if stage.shape[1] and stage.shape[2:] != self.size]
        if len(coarse) != 1 or not fine:
            return None
        whole = sum(fine[1:], fine[0])
        if whole.is_cuda and len(whole) >= _LARGE_BATCH:
            whole = whole.contiguous(memory_format=torch.channels_last)
        # Its channels side by side: the kernels read all of them at four places.
        return whole, coarse[0].float().contiguous(memory_format=torch.channels_last)

    def describe(self, stages: Sequence[Tensor], rows: slice | None = None) -> Tensor:
        """The features at the size of the first stage: ``[B,C,h,w]``, float32; of the rows
        ``rows`` alone if these are given.

        [L] Channels are concatenated as in PaDiM; [O] bilinear where PaDiM repeats the nearest
        value. [O] Directions are sums over the stages, which are the same before upsampling.
        """
        parts = []
        for stage in stages:
            if not stage.shape[1]:
                continue
            if stage.shape[2:] == self.size:
                part = stage if rows is None else stage[:, :, rows]
            elif rows is None:
                part = interpolated(stage, self.size)
            else:
                part = interpolated_rows(stage, self.size, rows)
            parts.append(part.float())
        if parts[0].is_cuda and len(parts[0]) >= _LARGE_BATCH:
            parts = [part.contiguous(memory_format=torch.channels_last) for part in parts]
        return torch.cat(parts, 1) if self.directions is None else sum(parts[1:], parts[0])

    @property
    def part_area(self) -> float:
        """The share of all locations, 0 to 1, that the part takes: those with support."""
        return 1.0 if self.support is None else float(self.support.float().mean())

    @property
    def support(self) -> Tensor | None:
        """``[h,w]`` bool; None where every location has it. No wait for the device."""
        return None if self.gaussians.supported_everywhere else self.gaussians.support

    @property
    def fitted(self) -> bool:
        """Whether it is ready to score."""
        return self.gaussians.fitted

    @property
    def device(self) -> torch.device:
        """Where the room is."""
        return self.selection.device

    # What a fit puts in ----------------------------------------------------------------------

    def select(self, channels: Tensor) -> FeatureDensity:
        """Select these channels: indices ``[C]``, ascending, into those of all stages. Returns the
        room."""
        self.selection, self.directions = channels.to(self.device), None
        self.settle()
        return self

    def project(self, directions: Tensor) -> FeatureDensity:
        """Features are these directions ``[C,K]``, sums over the channels of all stages. Returns
        the room."""
        every = torch.arange(sum(self.stage_channels), device=self.device)
        self.selection, self.directions = every, directions.float().to(self.device)
        self.settle()
        return self

    def calibrate(self, factor: Tensor) -> FeatureDensity:
        """Multiply distances with ``factor [h,w]``; returns the room."""
        self.calibration.copy_(factor)
        return self

    def take(self, gaussians: DenseGaussian) -> FeatureDensity:
        """Score by these Gaussians, fitted to the same features; returns the room."""
        self.gaussians = gaussians
        return self

    def settle(self) -> None:
        """What is wanted of each stage, worked out once."""
        if self.directions is not None:
            self.wanted = list(self.directions.split(self.stage_channels, 1))
            return
        starts = [0]
        for channels in self.stage_channels:
            starts.append(starts[-1] + channels)
        self.wanted = [
            self.selection[(self.selection >= start) & (self.selection < end)] - start
            for start, end in zip(starts, starts[1:], strict=False)
        ]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        total = sum(self.stage_channels)
        projected = prefix + "directions" in state_dict
        if projected != (self.directions is not None):
            number = total if projected else self.channels
            self.selection = torch.arange(number, device=self.device)
            empty = torch.empty((self.channels, total), device=self.device)
            self.directions = empty if projected else None
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FeatureDensity:
        super()._apply(keeping_dtypes(fn), recurse)
        move = keeping_dtypes(fn)
        self.wanted = [move(wanted) for wanted in self.wanted]
        return self

    def restore(self, tensors: Mapping[str, Tensor]) -> FeatureDensity:
        """The room of its ``state_dict()``; returns it.

        Raises:
            RuntimeError: it is that of another.
            ValueError: factors of the calibration that are not above 0.
        """
        # The Gaussians, by far the largest part, are taken as they are: a second copy of them could
        # be more than the machine has.
        self.gaussians.load_state_dict(under("gaussians", tensors), assign=True)
        others = {k: v for k, v in tensors.items() if not k.startswith("gaussians.")}
        missing, unexpected = self.load_state_dict(others, strict=False)
        missing = [name for name in missing if not name.startswith("gaussians.")]
        if missing or unexpected:
            raise KeyError(
                f"missing tensors: {', '.join(missing) or 'none'}; unexpected tensors: "
                f"{', '.join(unexpected) or 'none'}"
            )
        if not bool((self.calibration > 0).all()):
            # Distances times 0 are 0, which is good.
            raise ValueError("density.calibration has factors that are not above 0")
        return self


def _settle_again(room: FeatureDensity, _: object) -> None:
    room.settle()
