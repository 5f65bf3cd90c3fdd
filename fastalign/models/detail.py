"""What a model did with a batch, in full."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Detail(NamedTuple):
    """What the model did with a batch of B images.

    score ``[B]``; map ``[B,H,W]`` in the frame of the input, 0 without evidence; theta ``[B,2,3]``,
    all warps composed, aligned to input coordinates; valid ``[B,h,w]`` bool, the locations of the
    aligned frame that the image covers; aligned ``[B,3,H,W]``; residual_before and residual_after
    ``[B]``, 1 minus the correlation of edges with the mean of the training images, NaN without
    alignment; shift as a fraction of the image, rotation in degrees, scale as a factor, each
    ``[B]``. Of an image that cannot be judged (see :meth:`FYD.forward`) all figures are NaN and no
    location is valid.
    """

    score: Tensor
    map: Tensor
    theta: Tensor
    valid: Tensor
    aligned: Tensor
    residual_before: Tensor
    residual_after: Tensor
    shift: Tensor
    rotation: Tensor
    scale: Tensor
