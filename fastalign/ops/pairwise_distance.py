"""``pairwise_distance`` and its loss: mean distance of each image to the others, by location."""

from __future__ import annotations

from torch import Tensor

from fastalign.ops.arguments import Features, Locations, flag, groups, mask
from fastalign.ops.declaration import Declaration
from fastalign.ops.registration import declare

_DISTANCE = declare(
    Declaration(
        "pairwise_distance",
        (Features("h"), mask("h"), groups("h"), flag("squared")),
        result=Locations(),
        loss=1,
        independent=("rows",),
    )
)


def pairwise_distance(
    h: Tensor,
    mask: Tensor | None = None,
    groups: Tensor | None = None,
    *,
    squared: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Mean distance of each image to the other images of its group, at every location.

    For image a and location x this is the mean over b != a of ``|h_a(x) - h_b(x)|``, the Euclidean
    norm over channels: the image-level loss of FYD (arXiv 2110.04538) before its mean is taken. It
    costs O(B^2) time and never holds more than a few times the batch.

    Args:
        h: images ``[B,C,H,W]``; float32, float64, float16 or bfloat16, any strides.
        mask: bool ``[B,H,W]``, True where valid. A pair counts at a location where both images are
            valid; what lies under the mask does not matter, NaN included. None: all valid.
        groups: int64 ``[B]``, any labels; pairs exist only within a label. None: one group.
        squared: the squared distance instead, O(B) time; ours, the paper's is not squared.
        backend: None for the automatic choice, or a name of ``available_backends``.

    Returns:
        ``[B,H,W]`` in float32, in float64 for float64. 0 where there are no pairs. The gradient of
        a distance of 0 is 0.

    Raises:
        ValueError, TypeError: an argument of the wrong shape, device or dtype.
        BackendError: a backend asked for by name cannot run.
    """
    return _DISTANCE(h, mask, groups, squared, backend or "auto")


def pairwise_distance_loss(
    h: Tensor,
    mask: Tensor | None = None,
    groups: Tensor | None = None,
    *,
    squared: bool = False,
    backend: str | None = None,
) -> Tensor:
    """The mean of ``pairwise_distance`` over images and locations, those without pairs as 0.

    The gradient is computed in the same pass. float16 inputs that require a gradient take a second
    pass instead: the gradient of a mean lies below float16's range, and a gradient scaler must be
    able to scale it before it is rounded.

    Args:
        h, mask, groups, squared, backend: as for ``pairwise_distance``.

    Returns:
        A scalar in float32, in float64 for float64; 0 for empty tensors.
    """
    return _DISTANCE.loss(h, mask, groups, squared, backend or "auto")
