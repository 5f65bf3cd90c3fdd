"""``warp_affine``: affine resampling without a grid tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastalign.ops import checks
from fastalign.ops.arguments import Companion, Features, Maps, Size, choice, flag
from fastalign.ops.declaration import Declaration
from fastalign.ops.registration import declare

_WARP = declare(
    Declaration(
        "warp_affine",
        (
            Features("x", sampled=True),
            Companion(
                "theta",
                gradient=True,
                images=0,
                shape=lambda batch, *_: (batch, 2, 3),
                meaning="[B, 2, 3] with the B of x",
                dtypes=lambda x: (torch.float32, torch.float64),
                remedy=" whatever x is; convert it with theta.float()",
            ),
            Size("size"),
            choice("mode", "bilinear", "nearest"),
            choice("padding_mode", "zeros", "border", "reflection"),
            flag("align_corners"),
        ),
        result=Maps(),
        switches=(("deterministic", torch.are_deterministic_algorithms_enabled),),
        independent=("images",),
    )
)


def warp_affine(
    x: Tensor,
    theta: Tensor,
    size: Sequence[int] | None = None,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    *,
    backend: str | None = None,
) -> Tensor:
    """Resample ``x`` under an affine map: ``grid_sample(x, affine_grid(theta, ...))`` in one step.

    Args:
        x: ``[B,C,H,W]``; float32, float64, float16 or bfloat16, any strides.
        theta: ``[B,2,3]``, float32 or float64 whatever x is. It maps homogeneous normalised output
            coordinates to normalised input coordinates, as in ``torch.nn.functional.affine_grid``;
            coordinates are computed in its dtype.
        size: output ``(height, width)``; None: that of x.
        mode: ``"bilinear"`` or ``"nearest"``.
        padding_mode: ``"zeros"``, ``"border"`` or ``"reflection"``.
        align_corners: whether -1 and 1 are the centres of the outer pixels (True) or their outer
            borders.
        backend: None for the automatic choice, or a name of ``available_backends``.

    Returns:
        ``[B,C,height,width]`` in the dtype and memory format of x. The gradient goes to x and to
        theta; with ``torch.use_deterministic_algorithms(True)`` it is bit-identical from run to
        run.

    Raises:
        ValueError, TypeError: an argument of the wrong shape, device, dtype or an unknown option.
        BackendError: a backend asked for by name cannot run.
    """
    if size is None:
        checks.features(_WARP.name, "x", x)
        size = x.shape[2:]
    return _WARP(x, theta, size, mode, padding_mode, align_corners, backend or "auto")
