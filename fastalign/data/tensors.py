"""A photograph as a tensor of the size that a model takes."""

from __future__ import annotations

import torch
from torch import Tensor

from fastalign.data.images import ImageArray
from fastalign.data.resize import resize_image


def prepare(image: ImageArray, image_size: tuple[int, int]) -> Tensor:
    """Resize an image and bring it to the range 0..1.

    The whole image is resized, see :func:`resize_image`, and divided by 255. Normalisation belongs
    to the backbone. ``fastalign.prepare`` does the same without torch.

    Args:
        image: uint8 ``[H, W, 3]``.
        image_size: height and width of the result.

    Returns:
        float32 ``[3, height, width]``, contiguous.

    Raises:
        ValueError: ``image`` has another shape or dtype.
        ConfigError: ``image_size`` is not two positive numbers.
    """
    return to_float(resized(image, image_size))


def resized(image: ImageArray, size: tuple[int, int]) -> Tensor:
    """uint8 ``[H,W,3]`` of any size as uint8 ``[3,height,width]``; see :func:`resize_image`."""
    return torch.from_numpy(resize_image(image, size)).permute(2, 0, 1)


def to_float(pixels: Tensor) -> Tensor:
    """Values 0 to 255 as float32 in 0..1, contiguous."""
    return pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
