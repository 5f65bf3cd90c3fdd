"""Projector and predictor of non-contrastive learning on feature maps; a measure of collapse."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fastalign.nn.channel_moments import channel_moments, mean_and_variance
from fastalign.nn.state import require_beside
from fastalign.numeric import whole_number
from fastalign.ops import checks


def _conv1x1(in_channels: int, out_channels: int, *, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=bias)


def _check_widths(head: str, **widths: int) -> None:
    for name, value in widths.items():
        whole_number(f"{head}: {name}", value, 1, because="a number of channels")


class _Head(nn.Sequential):
    """A chain of 1x1 convolutions with BatchNorm."""

    in_channels: int

    def forward(self, features: Tensor) -> Tensor:
        name = type(self).__name__
        checks.dense(name, "features", features)
        if features.dim() != 4 or features.shape[1] != self.in_channels:
            raise ValueError(
                f"{name}: features have shape {list(features.shape)}, expected "
                f"[B, {self.in_channels}, H, W]"
            )
        checks.floating(name, "features", features)
        require_beside(name, "features", features, next(self.parameters()))
        few = features.shape[0] * features.shape[2] * features.shape[3] < 2
        # Layers that share their statistics with other processes are not of this class.
        if self.training and few and isinstance(self.bn1, nn.BatchNorm2d):
            raise ValueError(
                f"{name}: {list(features.shape)} leaves BatchNorm fewer than two vectors to train "
                "on; use larger batches or maps, or eval() for inference"
            )
        return super().forward(features)

    if TYPE_CHECKING:  # nn.Module types calls as Any
        __call__ = forward


class Projector(_Head):
    """Three 1x1 convolutions: ``[B,in_channels,H,W]`` to ``[B,out_channels,H,W]``.

    [L] The three convolutions, BatchNorm and ReLU behind the first two, and no biases are RegAD's
    encoder (arXiv 2207.07361, its authors' code), all 256 wide there. [O] BatchNorm without affine
    parameters at the end is our default, as in SimSiam (arXiv 2011.10566, section 4.4).

    Arguments:
        in_channels: channels of the features.
        hidden: channels between the convolutions; None: as many as the features.
        out_channels: channels of the result; None: as many as the features.
        output_norm: BatchNorm without affine parameters at the end; False: none, as in [L].

    Raises:
        ConfigError: a number of channels below 1.
        ValueError, from a call: features of another shape; or, while training, a single vector
            (one image with a 1x1 map, or no image), which has no variance to normalise with.
    """

    def __init__(
        self,
        in_channels: int,
        hidden: int | None = None,
        out_channels: int | None = None,
        *,
        output_norm: bool = True,
    ) -> None:
        hidden = in_channels if hidden is None else hidden
        out_channels = in_channels if out_channels is None else out_channels
        _check_widths(
            "Projector", in_channels=in_channels, hidden=hidden, out_channels=out_channels
        )
        layers: list[tuple[str, nn.Module]] = [
            ("conv1", _conv1x1(in_channels, hidden, bias=False)),
            ("bn1", nn.BatchNorm2d(hidden)),
            ("relu1", nn.ReLU(inplace=True)),
            ("conv2", _conv1x1(hidden, hidden, bias=False)),
            ("bn2", nn.BatchNorm2d(hidden)),
            ("relu2", nn.ReLU(inplace=True)),
            ("conv3", _conv1x1(hidden, out_channels, bias=False)),
        ]
        if output_norm:
            layers.append(("bn3", nn.BatchNorm2d(out_channels, affine=False)))
        super().__init__(OrderedDict(layers))
        self.in_channels = in_channels
        self.out_channels = out_channels


class Predictor(_Head):
    """Two 1x1 convolutions: ``[B,channels,H,W]`` to the same shape.

    [L] The two convolutions with BatchNorm and ReLU between them are RegAD's predictor (arXiv
    2207.07361, its authors' code), 256 wide throughout there. [O] The bottleneck between them, a
    quarter of the channels by default, and the bias of the second convolution are as in SimSiam
    (arXiv 2011.10566, section 3).

    Arguments:
        channels: channels of the projector's output.
        hidden: channels between the convolutions; None: ``max(1, channels // 4)``. ``channels``
            gives [L].
        output_bias: a bias in the second convolution; False: none, as in [L].

    Raises:
        As :class:`Projector`.
    """

    def __init__(
        self, channels: int, hidden: int | None = None, *, output_bias: bool = True
    ) -> None:
        _check_widths("Predictor", channels=channels)
        hidden = max(1, channels // 4) if hidden is None else hidden
        _check_widths("Predictor", hidden=hidden)
        layers: list[tuple[str, nn.Module]] = [
            ("conv1", _conv1x1(channels, hidden, bias=False)),
            ("bn1", nn.BatchNorm2d(hidden)),
            ("relu1", nn.ReLU(inplace=True)),
            ("conv2", _conv1x1(hidden, channels, bias=output_bias)),
        ]
        super().__init__(OrderedDict(layers))
        self.in_channels = channels
        self.out_channels = channels


@torch.no_grad()
def direction_moments(z: Tensor) -> Tensor:
    """What :func:`std_of_directions` needs of z ``[B,C,H,W]``: ``[1+2C]`` float64; those of several
    batches, or processes, add up."""
    dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
    # In 16 bits the smallest norm that may be divided by is 0.
    return channel_moments(nn.functional.normalize(z.to(dtype), dim=1))


def std_of_directions(moments: Tensor) -> Tensor:
    """:func:`std_of_normalised` from :func:`direction_moments`: a float64 scalar."""
    _, variance = mean_and_variance(moments)
    return variance.sqrt().mean() * len(variance) ** 0.5


@torch.no_grad()
def std_of_normalised(z: Tensor) -> Tensor:
    """How far the directions of z ``[B,C,H,W]`` are spread: 0 collapsed, 1 isotropic.

    Each vector is scaled to length 1; the standard deviation over all images and locations, with
    divisor B H W, is averaged over the channels and multiplied by ``sqrt(C)``. Directions spread
    evenly over the sphere have a standard deviation of ``1 / sqrt(C)`` in each channel and so give
    1, the largest possible value; vectors that all point the same way give 0 (SimSiam, arXiv
    2011.10566, section 4.1, there per image). Zero vectors stay zero.

    Returns:
        A scalar without gradient, in float32, in float64 for float64; 0 for no vectors at all.

    Raises:
        ValueError, TypeError: z has not four dimensions, or is not dense and floating point.
    """
    checks.features("std_of_normalised", "z", z)
    dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
    if z.numel() == 0:
        return z.new_zeros((), dtype=dtype)
    return std_of_directions(direction_moments(z)).to(dtype)
