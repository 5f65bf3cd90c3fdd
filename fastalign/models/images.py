"""What a fitted model takes as images, checked where they come in."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastalign.errors import InputError
from fastalign.models.maps import are_finite
from fastalign.nn.state import captured, require_unmapped, transformed
from fastalign.ops import checks

# What resampling may add to values in 0..1 at sharp edges.
_OVERSHOOT = 0.1


def checked(images: Tensor, image_size: tuple[int, int], device: torch.device) -> Tensor:
    """Images ``[B,3,H,W]`` in float32 and contiguous, so that neither dtype nor strides matter.

    Values may exceed 0..1 by what resampling adds; NaN and infinity pass, since such an image is
    scored as one that cannot be judged. A look at values on a GPU would wait for it, so images
    there pass as well, and those far outside 0..1 are not judged either. While a graph is captured
    values are not looked at.

    Raises:
        ValueError: another shape, or another device than the model's.
        TypeError: a sparse, nested or quantised tensor, or one inside ``torch.vmap``.
        InputError: whole numbers, or on the CPU values far outside 0..1.
    """
    height, width = image_size
    if not isinstance(images, Tensor):
        raise InputError(
            f"FYD: images are of type {type(images).__name__}, expected a tensor [B, 3, {height}, "
            f"{width}] with values in 0..1; model.predict takes photographs, arrays and paths"
        )
    checks.dense("FYD", "images", images)
    require_unmapped("FYD", "images", images)
    if images.dim() != 4 or tuple(images.shape[1:]) != (3, height, width):
        raise ValueError(
            f"FYD: images have shape {list(images.shape)}, expected [B, 3, {height}, "
            f"{width}] with values in 0..1; fastalign.data.prepare resizes photographs"
        )
    if not images.is_floating_point():
        raise InputError(
            f"FYD: images have dtype {images.dtype}, expected floating point values in 0..1, for "
            "example images.float() / 255; model.predict takes photographs as they are"
        )
    if captured():
        return images.float()
    if images.device != device:
        raise ValueError(
            f"FYD: images are on {images.device}, the model is on {device}; move one of them, for "
            f"example images.to({str(device)!r})"
        )
    images = images.float().contiguous()
    if not transformed():
        _check_range(images.detach())
    return images


def judgeable(images: Tensor) -> Tensor:
    """Which images ``[B,...]`` can be judged, bool ``[B]``: finite and, where :func:`checked` could
    not look at them without waiting for their device, not far outside 0..1."""
    finite = are_finite(images)
    if captured() or (images.device.type == "cpu" and not transformed()):
        return finite
    return finite & in_range(images)


def is_empty(images: Tensor) -> bool:
    """Whether a batch is empty, for which libraries below have no plans."""
    return not captured() and len(images) == 0


def one_for(images: Tensor) -> Tensor:
    """An image in the place of an empty batch: what it gives has the right shapes and dtypes."""
    return images.new_zeros(1, *images.shape[1:])


def in_range(images: Tensor) -> Tensor:
    """Which images ``[B,...]`` are not far outside 0..1, bool ``[B]``."""
    flat = images.flatten(1)
    return (flat.amin(1) >= -_OVERSHOOT) & (flat.amax(1) <= 1 + _OVERSHOOT)


def _check_range(images: Tensor) -> None:
    """Refuse images on the CPU that are far outside 0..1."""
    if not images.numel() or images.device.type != "cpu" or type(images) is not Tensor:
        return
    # In numpy, since it looks at memory of the host: no call on the way is decided by a number.
    values = images.numpy()
    if values.min() >= -_OVERSHOOT and values.max() <= 1 + _OVERSHOOT:
        return
    # NaN and infinity hide the other values from the quick look.
    for index, image in enumerate(values):
        known = image[np.isfinite(image)]
        if known.size and (known.min() < -_OVERSHOOT or known.max() > 1 + _OVERSHOOT):
            raise InputError(
                f"FYD: image {index} of the batch has values from {known.min():g} to "
                f"{known.max():g}, expected 0..1: give images in 0..255 as images / 255, and "
                "images that were normalised as they were before; normalisation is inside the "
                "model"
            )
