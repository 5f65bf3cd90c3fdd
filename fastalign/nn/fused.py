"""A network's convolutions with what surrounds them in one kernel each, for inference on GPUs.

A convolution, the sum with its bias, its activation and the normalisation of images are a pass over
memory each in torch's libraries, and cuDNN is slow at convolutions of each channel by itself in
float32. What stands around which convolution is observed on one forward pass, as in
:mod:`fastalign.nn.fold`; what is not known runs as it is.
"""

from __future__ import annotations

import copy
import math
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastalign.nn.fold import sole_successors
from fastalign.nn.precision import Running, copied, dtype_of
from fastalign.nn.stages import Normalise
from fastalign.nn.state import captured, transformed
from fastalign.ops.convolution import convolution_kernels

Clamp = tuple[float, float]
_FREE: Clamp = (-math.inf, math.inf)
# Channels come in multiples of it.
_STEP = 8
_MOST_ELEMENTS, _MOST_IMAGES = 2**31, 65536
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


class Surroundings(NamedTuple):
    """What is known of the modules of stages, by name: activations behind convolutions,
    convolutions behind activations, and the convolution behind the normalisation of images."""

    activations: dict[str, str]
    followers: dict[str, str]
    first: str | None


def clamp_of(module: nn.Module) -> Clamp | None:
    """The bounds between which an activation leaves its input as it is; None: it is another."""
    if type(module) is nn.ReLU:
        return 0.0, math.inf
    if isinstance(module, nn.Hardtanh) and type(module) in (nn.ReLU6, nn.Hardtanh):
        return float(module.min_val), float(module.max_val)
    return None


def _is_same(convolution: nn.Module) -> bool:
    """Padded as TensorFlow does it, by timm."""
    kind = type(convolution)
    return kind.__name__ == "Conv2dSame" and kind.__module__.startswith("timm.")


def _is_known(module: nn.Module) -> bool:
    """A plain convolution of square size and stride that pads with zeros."""
    if not (type(module) is nn.Conv2d or _is_same(module)):
        return False
    assert isinstance(module, nn.Conv2d)
    return (
        len({*module.kernel_size}) == len({*module.stride}) == 1
        and module.dilation == (1, 1)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _is_pointwise(module: nn.Module) -> bool:
    return (
        _is_known(module)
        and isinstance(module, nn.Conv2d)
        and (module.kernel_size, module.stride, module.groups) == ((1, 1), (1, 1), 1)
        and not any(module.padding)
        and module.in_channels % _STEP == module.out_channels % _STEP == 0
    )


def _is_depthwise(module: nn.Module) -> bool:
    return (
        _is_known(module)
        and isinstance(module, nn.Conv2d)
        and module.groups == module.in_channels == module.out_channels
        and module.in_channels % _STEP == 0
        and module.kernel_size[0] in (3, 5)
        and module.stride[0] in (1, 2)
    )


def _is_of_images(module: nn.Module) -> bool:
    return (
        _is_known(module)
        and isinstance(module, nn.Conv2d)
        and (module.in_channels, module.groups) == (3, 1)
        and module.kernel_size[0] <= 3
        and module.out_channels <= 128
    )


def surroundings(stages: nn.ModuleList, size: tuple[int, int]) -> Surroundings:
    """What stands around the convolutions of stages; ``size``: of images that they take."""
    network = copy.deepcopy(stages).to("cpu").eval()
    for module in network.modules():
        if clamp_of(module) is not None:
            setattr(module, "inplace", False)  # noqa: B010
    names = {module: name for name, module in network.named_modules()}

    def run() -> list[Tensor]:
        outputs = []
        x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
        for stage in network:
            x = stage(x)
            outputs.append(x)
        return outputs

    with torch.no_grad():
        pairs = sole_successors(
            network,
            run,
            lambda module: isinstance(module, (nn.Conv2d, Normalise)) or bool(clamp_of(module)),
            lambda module: isinstance(module, nn.Conv2d) or bool(clamp_of(module)),
        )
    activations, followers, first = {}, {}, None
    for one, other in pairs:
        if isinstance(one, nn.Conv2d) and clamp_of(other) is not None:
            activations[names[one]] = names[other]
        elif clamp_of(one) is not None and _is_depthwise(other):
            followers[names[one]] = names[other]
        elif isinstance(one, Normalise) and _is_of_images(other):
            first = names[other]
    return Surroundings(activations, followers, first)


class _Fused(nn.Module):
    """A convolution and the clamps around it, by one kernel where there is one for its input.

    Arguments:
        convolution: as torch has it; its weights are of the dtype that it computes in.
        tf32: float32 is rounded to tf32.
        clamp, clamp_before: bounds of its results and of its inputs.
    """

    def __init__(
        self,
        convolution: nn.Conv2d,
        tf32: bool,
        clamp: Clamp = _FREE,
        clamp_before: Clamp = _FREE,
    ) -> None:
        super().__init__()
        self.convolution, self.tf32 = convolution, tf32
        self.clamp, self.clamp_before = clamp, clamp_before
        bias = convolution.bias
        given = bias if bias is not None else torch.zeros_like(convolution.weight[:, 0, 0, 0])
        self.bias = given.detach().float().contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[B,K,h,w]`` of maps ``[B,C,H,W]``."""
        kernels = self._serving(x)
        if kernels is not None:
            return self._run(kernels, x)
        return _clamped(self.convolution(_clamped(x, self.clamp_before)), self.clamp)

    if TYPE_CHECKING:  # nn.Module types calls as Any
        __call__ = forward

    def _run(self, kernels: ModuleType, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _serving(self, x: Tensor) -> ModuleType | None:
        if captured() or transformed() or type(x) is not Tensor or x.dtype not in _FLOATS:
            return None
        if (x.requires_grad and torch.is_grad_enabled()) or not self._fits(x):
            return None
        return convolution_kernels(x.device)

    def _fits(self, x: Tensor) -> bool:
        return (
            0 < len(x) < _MOST_IMAGES
            and max(x[0].numel(), x[0, 0].numel() * self.convolution.out_channels) < _MOST_ELEMENTS
            and x.is_contiguous(memory_format=torch.channels_last)
        )

    def _placed(self, x: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
        """Zeros above and left of the input, and the size of the results."""
        of = self.convolution
        size, stride = of.kernel_size[0], of.stride[0]
        before, outputs = [], []
        for side, padding in zip(x.shape[2:], of.padding, strict=True):
            if _is_same(of):
                outputs.append(-(-side // stride))
                before.append(max(0, (outputs[-1] - 1) * stride + size - side) // 2)
            else:
                assert isinstance(padding, int)
                outputs.append((side + 2 * padding - size) // stride + 1)
                before.append(padding)
        return (before[0], before[1]), (outputs[0], outputs[1])


class _Pointwise(_Fused):
    def __init__(self, convolution: nn.Conv2d, tf32: bool, clamp: Clamp = _FREE) -> None:
        super().__init__(convolution, tf32, clamp)
        weight = convolution.weight.detach().flatten(1).contiguous()
        self.weight = to_tf32(weight) if tf32 else weight

    def _run(self, kernels: ModuleType, x: Tensor) -> Tensor:
        if x.dtype == torch.float32 and not self.tf32:
            # cuBLAS adds the bias itself.
            found = F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)
            return found if self.clamp == _FREE else found.clamp_(*self.clamp)
        return kernels.pointwise(x, self.weight, self.bias, self.clamp, tf32=self.tf32)


class _Depthwise(_Fused):
    def __init__(
        self, convolution: nn.Conv2d, clamp: Clamp = _FREE, clamp_before: Clamp = _FREE
    ) -> None:
        super().__init__(convolution, False, clamp, clamp_before)
        weight = convolution.weight.detach().float()
        self.weight = weight[:, 0].permute(1, 2, 0).contiguous()

    def _run(self, kernels: ModuleType, x: Tensor) -> Tensor:
        before, size = self._placed(x)
        stride, clamps = self.convolution.stride[0], (self.clamp, self.clamp_before)
        return kernels.depthwise(x, self.weight, self.bias, stride, before, size, *clamps)


class _OfImages(_Fused):
    """The first convolution with the normalisation before it: of float32 images in any layout."""

    def __init__(
        self, normalise: Normalise, convolution: nn.Conv2d, tf32: bool, clamp: Clamp = _FREE
    ) -> None:
        super().__init__(convolution, tf32, clamp)
        self.normalise = normalise
        self.mean, self.std = (of.flatten().contiguous() for of in (normalise.mean, normalise.std))
        weight = convolution.weight.detach().contiguous()
        self.weight = to_tf32(weight) if tf32 else weight

    def forward(self, x: Tensor) -> Tensor:
        kernels = self._serving(x)
        if kernels is not None:
            return self._run(kernels, x)
        x = self.normalise(x).to(self.weight.dtype)
        return _clamped(
            self.convolution(x.contiguous(memory_format=torch.channels_last)), self.clamp
        )

    def _fits(self, x: Tensor) -> bool:
        most = max(x[0].numel(), x[0, 0].numel() * self.convolution.out_channels)
        return 0 < len(x) < _MOST_IMAGES and most < _MOST_ELEMENTS and x.dtype == torch.float32

    def _run(self, kernels: ModuleType, x: Tensor) -> Tensor:
        before, size = self._placed(x)
        stride = self.convolution.stride[0]
        given = (x, self.weight, self.bias, self.mean, self.std, stride, before, size, self.clamp)
        return kernels.of_images(*given, tf32=self.tf32)


def _clamped(x: Tensor, clamp: Clamp) -> Tensor:
    return x if clamp == _FREE else x.clamp(*clamp)


def to_tf32(x: Tensor) -> Tensor:
    """float32 rounded to the nearest number of 10 bits after the point."""
    return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def running_stages(
    stages: nn.ModuleList, precision: str, around: Surroundings | None = None
) -> list[nn.Module]:
    """Stages as they run, from float32 to float32; the first module of the first one normalises
    images.

    Arguments:
        stages: chains of modules, whose weights they have where those are float32.
        precision: what they compute in.
        around: what stands around their convolutions, to fuse them; None: they are left alone.
    """
    copies = nn.ModuleList(copied(stage, precision) for stage in stages)
    # The normalisation stays in float32.
    (_, *parts), *later = (list(stage.children()) for stage in copies)
    first = next(stages[0].children())
    if around is not None:
        modules = dict(copies.named_modules())
        # The convolution of images is one where it is the next link of the chain.
        name = around.first if around.first and modules[around.first] is parts[0] else None
        clamps = _fuse(copies, modules, precision, around, name)
        (_, *parts), *later = (list(stage.children()) for stage in copies)
        if name is not None:
            convolution, clamp = modules[name], clamps.get(name, _FREE)
            assert isinstance(first, Normalise) and isinstance(convolution, nn.Conv2d)
            first = _OfImages(first, convolution, precision == "tf32", clamp)
            parts = parts[1:]
    dtype = dtype_of(precision)
    return [
        Running(nn.Sequential(*parts), dtype, first),
        *(Running(nn.Sequential(*chain), dtype) for chain in later),
    ]


def _fuse(
    copies: nn.ModuleList,
    modules: dict[str, nn.Module],
    precision: str,
    around: Surroundings,
    first: str | None,
) -> dict[str, Clamp]:
    """Put fused convolutions into stages, and nothing in the place of activations that they do;
    returns the bounds of their results. ``first``: the one of images, which is
    left to the caller."""
    clamps: dict[str, Clamp] = {}
    before: dict[str, Clamp] = {}
    for name, activation in around.activations.items():
        module, bounds = modules[name], clamp_of(modules[activation])
        assert bounds is not None
        follower = around.followers.get(activation)
        if _is_pointwise(module) and precision == "float32":
            # cuBLAS has no such bounds; zeros that are padded are to stay zeros.
            if follower is None or not bounds[0] <= 0 <= bounds[1]:
                continue
            before[follower] = bounds
        elif _is_pointwise(module) or _is_depthwise(module) or name == first:
            clamps[name] = bounds
        else:
            continue
        _put(copies, activation, nn.Identity())
    for name, module in modules.items():
        clamp = clamps.get(name, _FREE)
        if _is_pointwise(module):
            assert isinstance(module, nn.Conv2d)
            _put(copies, name, _Pointwise(module, precision == "tf32", clamp))
        elif _is_depthwise(module):
            assert isinstance(module, nn.Conv2d)
            _put(copies, name, _Depthwise(module, clamp, before.get(name, _FREE)))
    return clamps


def _put(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, module)


def takes_any_layout(stage: nn.Module) -> bool:
    """Whether a running stage reads images in whatever layout they are."""
    return isinstance(stage, Running) and isinstance(stage.first, _OfImages)
