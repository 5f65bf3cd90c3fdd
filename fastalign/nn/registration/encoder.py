"""Local descriptors for registration: early backbone features, decorrelated, of unit length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastalign.nn.backbone import FeatureBackbone
from fastalign.nn.constants import constant
from fastalign.nn.transfer import fetched, sent
from fastalign.ops import plain

# Variances below this share of the largest are not scaled up further: they are noise.
_FLOOR = 1e-4


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images ``[B,C,H,W]`` at ``size``, without aliasing."""
    height, width = images.shape[-2:]
    if (height, width) == size:
        return images
    if (height, width) == (2 * size[0], 2 * size[1]) and _halves_here(images):
        return _halved(images)
    if height % size[0] == 0 and width % size[1] == 0:
        return F.avg_pool2d(images, (height // size[0], width // size[1]))
    if plain.active():
        rows, columns = (
            _resizing(old, new).to(images) for old, new in zip((height, width), size, strict=True)
        )
        # Transposed at the end: OpenVINO 2026.4 mistakes the axis of what the backbone subtracts by
        # channel where that follows a matrix product.
        return ((images @ columns.mT).mT @ rows.mT).mT
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


def _halves_here(images: Tensor) -> bool:
    # In 16 bits torch adds up in float32.
    return images.device.type == "cpu" and images.dtype.itemsize >= 4 and not plain.active()


def _halved(images: Tensor) -> Tensor:
    """``avg_pool2d(images, 2)`` to the last bit, for which torch takes three times as long on a
    CPU: its loops over a window of two pixels are not vectorised."""
    upper, lower = images[..., ::2, :], images[..., 1::2, :]
    total = upper[..., ::2] + upper[..., 1::2]
    return total.add_(lower[..., ::2]).add_(lower[..., 1::2]).mul_(0.25)


@constant
def _resizing(old: int, new: int) -> Tensor:
    """The same along one axis as a matrix ``[new,old]``: few runtimes agree on antialiasing."""
    reach = max(old / new, 1)
    source = torch.arange(old) + 0.5
    centre = (torch.arange(new)[:, None] + 0.5) * (old / new)
    weight = (1 - (source - centre).abs() / reach).clamp_min(0)
    return weight / weight.sum(1, keepdim=True)


class LocalEncoder(nn.Module):
    """Images ``[B,3,H,W]`` to descriptors ``[B,K,h,w]``, each of length 1. Ours.

    The features of one backbone layer have their mean taken away, are projected on their first
    principal components with equal variances, and scaled to length 1: so a correlation counts
    agreement of structure and not the brightness or a channel that is large everywhere.

    Arguments:
        backbone: a frozen network; its last layer counts.
        components: K at most; never more than the layer has channels.
    """

    mean: Tensor
    basis: Tensor

    def __init__(self, backbone: FeatureBackbone, components: int = 24) -> None:
        super().__init__()
        self.backbone = backbone
        channels = backbone.channels[-1]
        self.components = min(components, channels)
        # Where the network is: the encoder is used before its owner is moved as a whole.
        device = next(backbone.parameters()).device
        self.register_buffer("mean", torch.zeros(channels, device=device))
        self.register_buffer(
            "basis", torch.eye(channels, device=device)[:, : self.components].clone()
        )

    def features(self, images: Tensor) -> Tensor:
        """The backbone's features ``[B,C,h,w]``."""
        return self.backbone(images)[-1].float()

    def fit(self, features: Tensor, valid: Tensor) -> LocalEncoder:
        """Mean and principal components of features ``[B,C,h,w]`` where valid ``[B,h,w]``."""
        # By weights: a choice of vectors would wait for the device to say how many they are.
        weight = valid.flatten().double()
        vectors = features.permute(0, 2, 3, 1).flatten(0, 2).double()
        number = weight.sum().clamp_min(1)
        mean = (weight @ vectors) / number
        centred = (vectors - mean) * weight[:, None]
        # On the host, where so small a matrix takes less than the launch of a device's solver.
        variances, axes = torch.linalg.eigh(fetched(centred.mT @ centred / number))
        variances, axes = variances[-self.components :], axes[:, -self.components :]
        floor = (variances.max() * _FLOOR).clamp_min(1e-12)
        # eigh leaves the sign of each axis open; a fixed one makes equal runs equal files.
        largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
        axes = axes * torch.where(largest < 0, -1.0, 1.0)
        self.mean.copy_(mean)
        self.basis.copy_(sent(axes / variances.clamp_min(floor).sqrt(), self.basis.device))
        return self

    def project(self, features: Tensor) -> Tensor:
        """Descriptors of :meth:`features`."""
        kernel = self.basis.mT[..., None, None]
        bias = -(self.mean @ self.basis)
        return F.normalize(F.conv2d(features, kernel, bias), dim=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.project(self.features(images))

    if TYPE_CHECKING:  # nn.Module types calls as Any
        __call__ = forward
