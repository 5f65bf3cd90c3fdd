"""The second room: what the network sees in an aligned image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastalign.errors import ConfigError
from fastalign.load import watched
from fastalign.models.pieces import PASS_BYTES
from fastalign.nn.backbone import FeatureBackbone
from fastalign.nn.fitted_gaussian import keeping_dtypes
from fastalign.nn.precision import compiled_rounding
from fastalign.nn.runtime import Chosen
from fastalign.nn.spatial_align import SpatialAlign
from fastalign.nn.stages import STRIDES
from fastalign.nn.state import in_own_state, made_in_own_state
from fastalign.ops import affine

# Bounds of the feature-level warps: a correction, not a second search.
_FCA_BOUNDS: dict[str, Any] = {"max_shift": 0.05, "max_angle": 10.0, "max_scale": 1.1}
# Pixels of the images that FCA and FA are trained on, at most.
_TRAINING_PIXELS = 256 * 256
_WHOLE = "a compiled model runs the whole image at once; use one of the two."


class Encoded(NamedTuple):
    """Feature maps of the stages, and theta ``[B,2,3]`` of the last one, input coordinates; None:
    nothing was warped."""

    stages: list[Tensor]
    theta: Tensor | None


class FeatureExtractor(nn.Module):
    """Images that were aligned by theta to the stages of a pretrained network, with feature-level
    coarse alignment (FCA) between them and what fine alignment (FA) has learned behind them.

    Arguments:
        image_size: height and width of the images.
        network: a timm network, see :class:`fastalign.nn.FeatureBackbone`.
        layers: of it, from which the stages come; None: the last at each of ``strides`` and at
            strides 4, 8 and 16, which alignment is trained and judged on.
        weights: of it.
        staged: run it stage by stage, as FCA needs it.
        fca_family: transformations of FCA.
        strides: of the default layers that features are made of; a network without any of them
            gives all that it has.

    Attributes:
        channels: of each stage, before :meth:`keep`.
        described: of these the channels that features are made of; 0 for a stage that is left out.
        size: height and width of the first stage's maps that is not.

    Raises:
        ConfigError: no such network or layer, or one that cannot be run stage by stage.
        InputError: weights that cannot be read or downloaded.
    """

    @made_in_own_state
    def __init__(
        self,
        image_size: tuple[int, int],
        network: str,
        layers: Sequence[int | str] | None = None,
        weights: str | Path | None = None,
        *,
        staged: bool = False,
        fca_family: str = "rotation_scale",
        strides: Sequence[int] = STRIDES,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.fca_family = fca_family
        self.backbone = FeatureBackbone(
            network, layers, weights, strides=sorted({*STRIDES, *strides})
        )
        self.backbone.eval().fuse()
        self.backbone.run_in(None).limit_memory(PASS_BYTES, must=False)
        if staged:
            self.backbone.stages()
        self.fca: nn.ModuleList | None = None
        self.adapters: nn.ModuleList | None = None
        self._wanted: Sequence[Tensor] | None = None
        self._kernels: list[Tensor] = []
        self._compiled: Callable[[Tensor, Tensor | None], Encoded] | None = None
        self._budget: int | None = None
        self.channels: tuple[int, ...] = self.backbone.channels
        found = zip(self.channels, self.backbone.reductions, strict=True)
        asked = [c if layers is not None or r in strides else 0 for c, r in found]
        self.described: tuple[int, ...] = tuple(asked) if any(asked) else self.channels
        index = next(index for index, channels in enumerate(self.described) if channels)
        with torch.inference_mode():
            first = self.backbone(torch.zeros(1, 3, *image_size))[index]
        self.size = (int(first.shape[2]), int(first.shape[3]))
        # Of the loaded weights, with the first image.
        self.backbone.run_by("auto", strict=False)
        self.register_load_state_dict_post_hook(_settle_again)

    @in_own_state
    def forward(self, images: Tensor, theta: Tensor | None = None) -> Encoded:
        """The stages of images ``[B,3,H,W]`` that were aligned by theta ``[B,2,3]`` (None: not at
        all), each ``[B,C_i,H_i,W_i]`` with what :meth:`keep` was told, and theta with FCA's warps
        composed."""
        if self._compiled is None or torch.compiler.is_compiling():
            return self.extract(images, theta)
        with compiled_rounding(self.backbone.precision):
            return self._compiled(images, theta)

    if TYPE_CHECKING:  # nn.Module types calls as Any
        __call__ = forward

    def extract(self, images: Tensor, theta: Tensor | None = None) -> Encoded:
        """As :meth:`forward`, without what :meth:`compile` has made."""
        stages, theta = self.encode(images, theta)
        if self._wanted is None:
            return Encoded(self.adapt(stages), theta)
        parts = []
        for index, wanted in enumerate(self._wanted):
            stage = stages[index]
            if not wanted.shape[-1]:
                part = stage[:, :0]
            elif wanted.is_floating_point():
                part = F.conv2d(stage.float(), self._kernels[index])
            else:
                part = stage[:, wanted]
                if self.adapters is not None:
                    part = part + F.conv2d(stage, self._kernels[index])
            parts.append(part)
        return Encoded(parts, theta)

    @watched
    def encode(self, images: Tensor, theta: Tensor | None = None) -> Encoded:
        """All channels of the stages, FCA included, before FA."""
        return self._go_on(self.begin(images), theta)

    def begin(self, images: Tensor) -> list[Tensor]:
        """All channels of the stages up to the first warp of FCA, which is not applied yet, or of
        all where there is none."""
        if self.fca is None:
            return self.backbone(images)
        return [self.backbone.forward_stage(0, images)]

    def train_from(self, begun: Sequence[Tensor], theta: Tensor | None = None) -> Encoded:
        """As :meth:`encode` of images of which this much is begun, for training: the gradient of a
        stage reaches the warp that is applied to it and none before, since what lies between is
        not trained."""
        return self._go_on(begun, theta, apart=True)

    def _go_on(
        self, begun: Sequence[Tensor], theta: Tensor | None, *, apart: bool = False
    ) -> Encoded:
        if self.fca is None:
            return Encoded(list(begun), theta)
        (x,), stages = begun, []
        for index, align in enumerate(self.fca):
            if index:
                x = self.backbone.forward_stage(index, x.detach() if apart else x)
            x, moved, _ = align(x)
            theta = moved if theta is None else affine.compose(theta, moved)
            stages.append(x)
        return Encoded(stages, theta)

    def adapt(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """All channels of the stages with what FA has learned."""
        if self.adapters is None:
            return list(stages)
        return [
            stage + adapter(stage) for stage, adapter in zip(stages, self.adapters, strict=True)
        ]

    def keep(self, wanted: Sequence[Tensor] | None) -> FeatureExtractor:
        """Keep of each stage these channels alone, indices ``[K_i]``, or these sums over its
        channels, ``[N,C_i]`` float32; None: all channels. Returns the room."""
        self._wanted = wanted
        self.settle()
        return self

    def settle(self) -> None:
        """Work out the weights of what is wanted, the adapters' included."""
        self._kernels = []
        if self._wanted is None:
            return
        adapters = [None] * len(self.channels) if self.adapters is None else self.adapters
        # For scores with gradients, whatever mode the caller is in.
        with torch.inference_mode(False), torch.no_grad():
            for adapter, wanted in zip(adapters, self._wanted, strict=True):
                weight = None if adapter is None else adapter.weight
                assert weight is None or isinstance(weight, Tensor)
                if not wanted.shape[-1]:
                    self._kernels.append(wanted)
                elif wanted.is_floating_point():
                    sums = wanted if weight is None else wanted + wanted @ weight[:, :, 0, 0]
                    self._kernels.append(sums[:, :, None, None])
                elif weight is not None:
                    self._kernels.append(weight[wanted])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FeatureExtractor:
        before = self.device.type
        super()._apply(keeping_dtypes(fn), recurse)
        if self._wanted is not None:
            self._wanted = [wanted.to(self.device) for wanted in self._wanted]
        self.settle()
        if self.device.type != before:
            # Pieces that fit a CPU's caches would only cost time elsewhere.
            self.backbone.limit_memory(
                PASS_BYTES if self.device.type == "cpu" else math.inf, must=False
            )
        return self

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.backbone.parameters()).device

    # Ways to run -----------------------------------------------------------------------------

    def limit_memory(self, pass_bytes: float, budget: int | None = None) -> None:
        """Let passes through a stage take so many bytes, because of a budget or not.

        Raises:
            ConfigError: a budget for what is compiled.
        """
        self.require_free(budget)
        self.backbone.limit_memory(pass_bytes, must=budget is not None)
        self._budget = budget

    def require_free(self, budget: int | None) -> None:
        """Raise :class:`ConfigError` where a budget cannot be kept since the room is compiled."""
        if budget is not None and self._compiled is not None:
            raise ConfigError(f"limit_memory: budget={budget}: {_WHOLE}")

    @property
    def precision(self) -> str:
        """What the network computes in where it is."""
        return self.backbone.precision

    def run_in(self, precision: str | None, *, strict: bool = True) -> None:
        """Let the network compute in a precision, see :meth:`FeatureBackbone.run_in`.

        Raises:
            ConfigError: there is no such precision, or not here.
        """
        self.backbone.run_in(precision, strict=strict)

    @property
    def runtime(self) -> Chosen:
        """What computes the network where it is, and why; made ready for images of the model.

        Raises:
            BackendError: OpenVINO was asked for, and does not give what torch does.
        """
        if self._compiled is not None:
            return Chosen("torch", "compile() was called")
        return self.backbone.chosen(*self.image_size)

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Let the network compute in float32 meanwhile."""
        before = self.backbone.asked
        self.backbone.run_in("float32")
        try:
            yield
        finally:
            self.backbone.run_in(before, strict=False)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Run by :func:`torch.compile`, which has the arguments; a copy is not compiled.

        Raises:
            ConfigError: :meth:`limit_memory` was given a budget.
        """
        if self._budget is not None:
            raise ConfigError(f"compile: limit_memory was given {self._budget}: {_WHOLE}")
        self._compiled = torch.compile(self.extract, *args, **kwargs)

    @property
    def bounded(self) -> bool:
        """Whether there is a budget."""
        return self._budget is not None

    @property
    def compiled(self) -> bool:
        """Whether :meth:`compile` was called."""
        return self._compiled is not None

    def __getstate__(self) -> dict[str, Any]:
        # As torch does with compiled modules.
        return {**super().__getstate__(), "_compiled": None}

    # Parts -----------------------------------------------------------------------------------

    @property
    def training_size(self) -> tuple[int, int]:
        """The size at which FCA and FA are trained: the image size, or where that is larger so many
        pixels as 256 x 256; a network of fixed size gets its own. Poses and warps are in units of
        the image, so they hold at every size."""
        height, width = self.image_size
        if height * width <= _TRAINING_PIXELS or not self.backbone.splittable:
            return height, width
        scale = (_TRAINING_PIXELS / (height * width)) ** 0.5
        return max(32, 16 * round(height * scale / 16)), max(32, 16 * round(width * scale / 16))

    def install(
        self, *, fca: nn.ModuleList | None = None, adapters: nn.ModuleList | None = None
    ) -> FeatureExtractor:
        """Take these parts in place of those that there were; returns the room."""
        self.fca, self.adapters = fca, adapters
        self.settle()
        return self

    def make_fca(self, aspect: float) -> nn.ModuleList:
        """One untrained spatial transformer for each stage."""
        return nn.ModuleList(
            SpatialAlign(channels, self.fca_family, aspect=aspect, **_FCA_BOUNDS)
            for channels in self.channels
        )

    def make_adapters(self) -> nn.ModuleList:
        """One residual 1x1 convolution for each stage, zero at the start: what FA trains."""
        adapters = nn.ModuleList()
        for channels in self.channels:
            adapter = nn.Conv2d(channels, channels, 1, bias=False)
            nn.init.zeros_(adapter.weight)
            adapters.append(adapter)
        return adapters

    def parts(self) -> dict[str, Any]:
        """Which parts there are."""
        return {"fca": self.fca is not None, "fa": self.adapters is not None}

    def restore(
        self, parts: Mapping[str, Any], tensors: Mapping[str, Tensor], aspect: float
    ) -> FeatureExtractor:
        """The room of :meth:`parts` and of its ``state_dict()``; returns it.

        Raises:
            RuntimeError: they do not fit each other.
        """
        self.install(
            fca=self.make_fca(aspect) if parts.get("fca") else None,
            adapters=self.make_adapters() if parts.get("fa") else None,
        )
        self.load_state_dict(dict(tensors))
        return self


def _settle_again(room: FeatureExtractor, _: object) -> None:
    room.settle()
