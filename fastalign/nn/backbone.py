"""Pretrained feature networks whose stages can be called one after the other."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fastalign.errors import ConfigError, FastalignError, first_line
from fastalign.nn import weights as weight_files
from fastalign.nn.backbone_runtime import ByRuntime
from fastalign.nn.fold import fold_batch_norm
from fastalign.nn.fused import Surroundings, running_stages, surroundings, takes_any_layout
from fastalign.nn.precision import (
    Running,
    check_precision,
    copied,
    default_precision,
    dtype_of,
    missing_precision,
    rounding,
)
from fastalign.nn.stages import (
    STRIDES,
    Normalise,
    chain_of,
    create_network,
    own_size,
    resolve_layers,
    sample_size,
    split,
    with_outputs,
)
from fastalign.nn.state import captured, made_in_own_state, require_beside, require_unmapped
from fastalign.nn.tiling import Tiler, peak_bytes
from fastalign.ops import checks
from fastalign.ops.convolution import convolution_kernels


class FeatureBackbone(ByRuntime):
    """A timm network as a list of feature maps.

    ``forward(images)`` takes images ``[B,3,H,W]`` in 0..1 (normalisation is inside) and returns one
    ``[B,C_i,H_i,W_i]`` for each layer. Layers behind the last one asked for are not kept.

    Arguments:
        name: any timm network that offers ``features_only``.
        layers: timm feature indices (its ``out_indices``) or module names such as ``"blocks.4"``,
            in the order of computation. None: the last outputs at ``strides``; at 4, 8 and 16 of
            EfficientNet-Lite0 these are blocks 1, 2 and 4, of a ResNet layers 1 to 3.
        weights: ``None`` (random), ``"embedded"`` (EfficientNet-Lite0 only; installed with this
            package), ``"hub"`` (timm's pretrained ones, downloaded) or the path of a state dict of
            the whole timm network, ``.pth``, ``.pt`` or ``.safetensors``.
        trainable: default False: no gradients for the weights, and BatchNorm stays in evaluation
            mode whatever ``train()`` says. Gradients still pass through to the images.
        channels_last: compute in channels_last memory format, the faster one for convolutions.
        strides: of the layers where these are not given; a network that has none of them gives its
            last one.

    Attributes:
        layers: the module names of the outputs. channels: their channels. reductions: their
        strides in pixels. precision: what it computes in where it is, see
        :meth:`run_in`. asked, asked_runtime: what it was asked to compute in, and by.

    Raises:
        ConfigError: a network, layer or combination that does not exist.
        InputError: weights that are missing, unreadable, do not fit or cannot be downloaded.
    """

    @made_in_own_state
    def __init__(
        self,
        name: str = weight_files.EMBEDDED_NETWORK,
        layers: Sequence[int | str] | None = None,
        weights: str | Path | None = None,
        *,
        trainable: bool = False,
        channels_last: bool = True,
        strides: Sequence[int] = STRIDES,
    ) -> None:
        super().__init__()
        if weights == "embedded":
            weight_files.require_embedded(name)
        # Weights that are replaced at once must not use up the caller's random numbers.
        with nullcontext() if weights is None else torch.random.fork_rng(devices=[]):
            network, mean, std = create_network(name, weights)
        self._sample_size, self._own_size = sample_size(name), own_size(name)
        self.name = name
        self.trainable = trainable
        self.channels_last = channels_last
        self.is_fused = False
        self._stages: nn.ModuleList | None = None
        self._whole: nn.Module | None = None
        self.asked: str | None = "float32"
        self.precision = "float32"
        # How it runs, where that is not how it is kept.
        self._runs: list[nn.Module] = []
        self._around: Surroundings | None = None
        self._pass_bytes = math.inf
        self._must_keep = True
        self._tilers: list[Tiler] | None = None

        available = {
            info["module"]: (info["num_chs"], info["reduction"])
            for info in network.feature_info.info
        }
        chain = chain_of(network, list(available))
        self.layers = resolve_layers(name, layers, available, list(chain or available), strides)
        if chain is not None:
            self._stages = split(chain, self.layers, Normalise(mean, std))
        else:
            self._normalise = Normalise(mean, std)
            self._whole = with_outputs(name, network, available, self.layers)
        if not trainable:
            self.requires_grad_(False)
        if channels_last:
            self.to(memory_format=torch.channels_last)
        self.train(self.training)
        self.register_load_state_dict_post_hook(_settle_again)
        if any(layer not in available for layer in self.layers):
            available |= self._probe()
        self.channels: tuple[int, ...] = tuple(available[layer][0] for layer in self.layers)
        self.reductions: tuple[int, ...] = tuple(available[layer][1] for layer in self.layers)

    @property
    def splittable(self) -> bool:
        """Whether the stages can be called one by one; False for transformers and the like."""
        return self._stages is not None

    def stages(self) -> tuple[nn.Module, ...]:
        """One module for each layer; the first takes images in 0..1, each next one's input is the
        output of the one before. :class:`ConfigError` where the network cannot be split."""
        if self._stages is None:
            raise ConfigError(
                f"backbone {self.name} cannot be run stage by stage; choose a convolutional one, "
                "such as resnet18, or leave out what works between its stages (FCA)"
            )
        return tuple(self._stages)

    def up_to(self, index: int) -> FeatureBackbone:
        """A copy in float32 that ends with layer ``index``; a network that cannot be split stays
        whole and gives the same outputs, less those behind."""
        ending = copy.deepcopy(self)
        count = index + 1
        if ending._stages is not None:
            ending._stages, ending._around = ending._stages[:count], None
        ending.layers, ending.channels = self.layers[:count], self.channels[:count]
        ending.reductions = self.reductions[:count]
        return ending.run_in("float32")

    def forward_stage(self, index: int, x: Tensor) -> Tensor:
        """Output of stage ``index`` from the output of the stage before (images for stage 0)."""
        if index == 0:
            self._check(x)
        found = self._by_openvino(x, index)
        if found is not None:
            return found[0]
        return self._stage_by_torch(index, self._laid_out(x) if index == 0 else x)

    def _stage_by_torch(self, index: int, x: Tensor) -> Tensor:
        # Gradients keep all pieces in any case.
        with rounding(self.precision):
            if math.isinf(self._pass_bytes) or torch.compiler.is_compiling() or x.requires_grad:
                return self._running()[index](x)
            return self.tilers()[index](x, self._pass_bytes, must=self._must_keep)

    def _running(self) -> Sequence[nn.Module]:
        return self._runs or self.stages()

    def run_in(self, precision: str | None, *, strict: bool = True) -> FeatureBackbone:
        """Compute in ``"float32"``, ``"tf32"``, ``"bfloat16"`` or ``"float16"``; returns itself.

        A new one computes in float32, as torch's own switches have it. Images, features and the
        weights that it keeps are float32 in any case.

        Arguments:
            precision: tf32: convolutions round their operands to 10 bits, unless there are
                gradients, on NVIDIA's GPUs. bfloat16: on GPUs and processors with instructions for
                it. float16: on GPUs; features above 65504 overflow. None: the default of the device
                that it is on or is moved to, tf32 on NVIDIA's GPUs, else float32. So it is too
                where it is moved to a device without the precision.
            strict: False: a precision for the device that it will be moved to.

        Raises:
            ConfigError: there is no such precision, or not here; or a backbone that is trained.
        """
        check_precision(precision, next(self.parameters()).device if strict else None)
        if self.trainable and precision not in (None, "float32"):
            raise ConfigError(f"precision {precision}: a trainable backbone computes in float32.")
        self.asked = precision
        self._settle()
        return self

    def _bounded(self) -> bool:
        return self._must_keep and not math.isinf(self._pass_bytes)

    def _part(self, stage: int | None) -> nn.Module:
        if stage is not None:
            return self.stages()[stage]
        whole = self._whole if self._stages is None else self._stages
        assert whole is not None
        return whole

    def _in_float32(self, x: Tensor, stage: int | None) -> list[Tensor]:
        if self._stages is None:
            assert self._whole is not None
            return self._in_order(self._whole(self._normalise(x)))
        maps = []
        for part in self._stages if stage is None else [self._stages[stage]]:
            x = part(x)
            maps.append(x)
        return maps

    def _settle(self) -> None:
        """Settle what is computed in here, by what, and how."""
        device = next(self.parameters()).device
        asked = self.asked or default_precision(device)
        missing = missing_precision(asked, device)
        self.precision = asked if missing is None else default_precision(device)
        self._choose(device, self.precision)
        self._tilers, self._runs = None, []
        fused = self.is_fused and self._stages is not None and convolution_kernels(device)
        if dtype_of(self.precision) == torch.float32 and not fused:
            return
        if self._stages is not None:
            if fused and self._around is None:
                self._around = surroundings(self._stages, self._sample_size)
            self._runs = running_stages(
                self._stages, self.precision, self._around if fused else None
            )
        else:
            assert self._whole is not None
            network = copied(self._whole, self.precision)
            self._runs = [Running(network, dtype_of(self.precision))]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FeatureBackbone:
        super()._apply(fn, recurse)
        self._settle()
        return self

    def limit_memory(self, pass_bytes: float, *, must: bool = True) -> FeatureBackbone:
        """Let no pass through a stage take more than about ``pass_bytes``; returns itself.

        Images that exceed it together go one after the other, and an image that exceeds it alone in
        pieces that overlap by what the stage looks at, so that the features are those of the whole
        image. Networks that cannot be split run image by image. ``math.inf``: no limit.
        ``must``: a network that cannot be run in pieces is an error; without it, it runs the whole
        image at once.
        """
        self._pass_bytes, self._must_keep = pass_bytes, must
        return self

    def tilers(self) -> list[Tiler]:
        """The stages, each as what runs it in pieces."""
        stages = self._running()
        if self._tilers is None:
            inputs = [3, *self.channels]
            parameter = next(self.parameters())
            # But for its numbers, a stage follows from the network, its cuts and how it runs.
            kind = self.name, self.is_fused, self.precision, parameter.dtype, parameter.device.type
            self._tilers = [
                Tiler(stage, channels, f"backbone {self.name}", (*kind, self.layers[:count]))
                for count, (stage, channels) in enumerate(zip(stages, inputs, strict=False), 1)
            ]
        return self._tilers

    def keeps(self, height: int, width: int, pass_bytes: float) -> bool:
        """Whether images of this size can go through the stages in passes of about ``pass_bytes``;
        not where a stage that looks at the whole image takes more."""
        for tiler, stride in zip(self.tilers(), (1, *self.reductions), strict=False):
            if not tiler.keeps(math.ceil(height / stride), math.ceil(width / stride), pass_bytes):
                return False
        return True

    def image_bytes(self, height: int, width: int) -> int:
        """Memory of one image's pass, the features included, without any limit."""
        if self._stages is None:
            network = copy.deepcopy(self).to("meta")
            images = torch.empty(1, 3, height, width, device="meta")
            return peak_bytes(lambda: network.limit_memory(math.inf)(images))
        most = kept = 0.0
        pixels = float(height * width)
        for tiler, channels, stride in zip(
            self.tilers(), self.channels, self.reductions, strict=True
        ):
            most = max(most, kept + tiler.bytes_per_pixel * pixels)
            pixels = math.ceil(height / stride) * math.ceil(width / stride)
            kept += 4 * channels * pixels
        return int(most)

    def forward(self, images: Tensor) -> list[Tensor]:
        self._check(images)
        found = self._by_openvino(images, None)
        return self._by_torch(images) if found is None else found

    def _by_torch(self, images: Tensor) -> list[Tensor]:
        x = self._laid_out(images)
        if torch.compiler.is_compiling():
            return self._features(x)
        try:
            return self._features(x)
        except (AssertionError, RuntimeError, ValueError) as error:
            if not self._is_about_size(x, error):
                raise
            height, width = self._own_size
            cause = first_line(error)
            raise ConfigError(
                f"backbone {self.name} does not take images of {x.shape[2]} x {x.shape[3]} pixels "
                f"({cause}); use the size that it was made for, {height} x {width} (--image-size), "
                "or another backbone."
            ) from error

    def _is_about_size(self, x: Tensor, error: Exception) -> bool:
        """Whether a network that failed on ``x`` runs on one image of the size it was made for."""
        if isinstance(error, (FastalignError, torch.OutOfMemoryError)):
            return False
        size = self._own_size
        if tuple(x.shape[2:]) == size or x.requires_grad or x.device.type == "meta":
            return False
        try:
            with torch.no_grad():
                self._features(x.new_zeros(1, 3, *size))
        except (AssertionError, RuntimeError, ValueError):
            return False
        return True

    def _features(self, x: Tensor) -> list[Tensor]:
        if self._stages is None:
            if len(x) > 1 and not (math.isinf(self._pass_bytes) or torch.compiler.is_compiling()):
                return [
                    torch.cat(one) for one in zip(*map(self._features, x.split(1)), strict=True)
                ]
            assert self._whole is not None
            network = self._runs[0] if self._runs else self._whole
            with rounding(self.precision):
                return self._in_order(network(self._normalise(x)))
        outputs = []
        for index in range(len(self._stages)):
            x = self._stage_by_torch(index, x)
            outputs.append(x)
        return outputs

    def _in_order(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Maps ``[B,C,h,w]`` of the layers."""
        nhwc = str(getattr(self._whole, "output_fmt", "NCHW")).upper().endswith("NHWC")
        return [f.permute(0, 3, 1, 2) if nhwc else f for f in features[: len(self.layers)]]

    if TYPE_CHECKING:  # nn.Module types calls as Any
        __call__ = forward

    def fuse(self) -> FeatureBackbone:
        """Fold BatchNorm into the convolutions, in place, for inference; returns itself.

        The outputs stay equal to rounding, which is checked. The state dict changes: load weights
        into a backbone that is fused in the same way.
        """
        if self.trainable:
            raise ConfigError("a trainable backbone cannot be fused; use trainable=False")
        if not self.is_fused:
            parameter = next(self.parameters())
            generator = torch.Generator().manual_seed(0)
            sample = torch.rand(1, 3, *self._sample_size, generator=generator)
            sample = sample.to(parameter.device, parameter.dtype)
            fold_batch_norm(self, lambda: self(sample))
            self.requires_grad_(False)
            if self.channels_last:
                self.to(memory_format=torch.channels_last)
            self.is_fused = True
            self._settle()
        return self

    def train(self, mode: bool = True) -> FeatureBackbone:
        """As in ``nn.Module``, but a backbone that is not trainable stays in evaluation mode."""
        super().train(mode and self.trainable)
        return self

    def extra_repr(self) -> str:
        return f"{self.name!r}, layers={self.layers}, channels={self.channels}"

    def _check(self, images: Tensor) -> None:
        if not captured():
            parameter = next(self.parameters())
            checks.floating("FeatureBackbone", "images", images)
            require_beside("FeatureBackbone", "images", images, parameter)
            require_unmapped("FeatureBackbone", "images", images)
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(
                f"FeatureBackbone: images have shape {list(images.shape)}, expected [B, 3, H, W] "
                "with values in 0..1"
            )

    def _laid_out(self, images: Tensor) -> Tensor:
        if self.channels_last and not (self._runs and takes_any_layout(self._runs[0])):
            return images.contiguous(memory_format=torch.channels_last)
        return images

    def _probe(self) -> dict[str, tuple[int, int]]:
        training = self.training
        self.eval()
        with torch.no_grad():
            outputs = self(torch.zeros(1, 3, *self._sample_size))
        self.train(training)
        return {
            layer: (output.shape[1], self._sample_size[0] // output.shape[2])
            for layer, output in zip(self.layers, outputs, strict=True)
        }


def _settle_again(backbone: FeatureBackbone, _: object) -> None:
    backbone._settle()
