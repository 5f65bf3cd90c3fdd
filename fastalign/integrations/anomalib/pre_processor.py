"""Resizing that is the same in a run of the trainer and in an exported model."""

from __future__ import annotations

import torch
from anomalib.pre_processing import PreProcessor
from torch import Tensor
from torchvision.transforms.v2 import Compose, InterpolationMode, Normalize, Resize, Transform


class ResizePreProcessor(PreProcessor):
    """anomalib's pre-processor for resizing alone, antialiased wherever it runs.

    anomalib leaves antialiasing out of what it exports and of ``TorchInferencer``, so that a large
    photograph gets another score there than from the engine. Here the exported resizing is two
    matrix products that every runtime has; OpenVINO ignores the antialiasing of ONNX's own.

    Arguments:
        image_size: height and width of the result.
    """

    def __init__(self, image_size: tuple[int, int]) -> None:
        super().__init__(Compose([Resize(image_size, antialias=True)]))

    def forward(self, batch: Tensor) -> Tensor:
        """Resize images ``[B,3,H,W]`` outside the trainer."""
        size = _plain_resize(self.transform)
        return super().forward(batch) if size is None else antialiased(batch, size)


def antialiased(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images ``[B,C,H,W]`` at ``size``: ``F.interpolate(..., "bilinear", antialias=True)`` to
    rounding, in operations that every export can express, H and W symbolic included."""
    rows, columns = (
        _weights(images.shape[axis], out, images) for axis, out in zip((2, 3), size, strict=True)
    )
    # One dimension for both, because OpenVINO merges what follows by channel into products of more.
    resized = rows @ images.flatten(0, 1) @ columns.mT
    return resized.unflatten(0, images.shape[:2])


def _weights(length: int, out: int, like: Tensor) -> Tensor:
    """Matrix ``[out,length]``: a triangle of at least one pixel's width around each new pixel."""
    places = torch.arange(length, dtype=like.dtype, device=like.device) + 0.5
    # As a tensor, because an exported length is not known here.
    scale = (places[-1:] + 0.5) / out
    centres = (torch.arange(out, dtype=like.dtype, device=like.device) + 0.5) * scale
    weights = (1 - (places - centres[:, None]).abs() / scale.clamp_min(1)).clamp_min(0)
    return weights / weights.sum(1, keepdim=True)


def normalises(transform: Transform | None) -> bool:
    """Whether a transform has a ``Normalize`` in it."""
    if isinstance(transform, Compose):
        return any(normalises(step) for step in transform.transforms)
    return isinstance(transform, Normalize)


def _plain_resize(transform: Transform | None) -> tuple[int, int] | None:
    """The size of a transform that is one antialiased bilinear ``Resize`` to height and width."""
    if isinstance(transform, Compose) and len(transform.transforms) == 1:
        return _plain_resize(transform.transforms[0])
    if (
        isinstance(transform, Resize)
        and transform.antialias
        and InterpolationMode(transform.interpolation) == InterpolationMode.BILINEAR
        and transform.size is not None
        and len(transform.size) == 2
    ):
        return transform.size[0], transform.size[1]
    return None
