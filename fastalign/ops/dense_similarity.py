"""``dense_similarity`` and its loss: mean cosine of each image with the others, by location."""

from __future__ import annotations

from torch import Tensor

from fastalign.ops.arguments import Features, Locations, Twin, groups
from fastalign.ops.declaration import Declaration
from fastalign.ops.registration import declare

_SIMILARITY = declare(
    Declaration(
        "dense_similarity",
        (
            Features("p"),
            Twin("z", meaning="[B, C, H, W] of p", remedy=" (the dtype of p)"),
            groups("p"),
        ),
        result=Locations(),
        loss=-1,
        independent=("rows",),
    )
)


def dense_similarity(
    p: Tensor, z: Tensor, groups: Tensor | None = None, *, backend: str | None = None
) -> Tensor:
    """Mean cosine of each image with the other images of its group, at every location.

    For image a and location x this is the mean over b != a of ``cos(p_a(x), z_b(x))``. All
    ``B (B - 1)`` pairs cost O(B). The fine alignment of FYD (arXiv 2110.04538) is built on it; the
    choice of all ordered pairs is ours.

    Args:
        p: predictions ``[B,C,H,W]``; float32, float64, float16 or bfloat16, any strides.
        z: targets, same shape, dtype and device. Detach it for a stopped gradient.
        groups: int64 ``[B]``, any labels; pairs exist only within a label. None: one group.
        backend: None for the automatic choice, or a name of ``available_backends``.

    Returns:
        ``[B,H,W]`` in float32, in float64 for float64. 0 for an image without partners. A zero
        vector has cosine 0, and gradient 0, with everything.

    Raises:
        ValueError, TypeError: an argument of the wrong shape, device or dtype.
        BackendError: a backend asked for by name cannot run.
    """
    return _SIMILARITY(p, z, groups, backend or "auto")


def dense_similarity_loss(
    p: Tensor, z: Tensor, groups: Tensor | None = None, *, backend: str | None = None
) -> Tensor:
    """Minus the mean of ``dense_similarity`` over images and locations.

    The gradient is computed in the same pass, so that p and z are read once. float16 inputs that
    require a gradient take a second pass instead: the gradient of a mean lies below float16's
    range, and a gradient scaler must be able to scale it before it is rounded.

    Args:
        p, z, groups, backend: as for ``dense_similarity``.

    Returns:
        A scalar in float32, in float64 for float64; 0 for empty tensors.
    """
    return _SIMILARITY.loss(p, z, groups, backend or "auto")
