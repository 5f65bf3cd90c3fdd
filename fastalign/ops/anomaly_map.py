"""``anomaly_map``: distances of aligned images as smoothed maps of the images, in one op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastalign.ops import checks
from fastalign.ops.arguments import Companion, Dtypes, Features, Size, WeightedMaps
from fastalign.ops.declaration import Declaration
from fastalign.ops.layout import accumulation_dtype
from fastalign.ops.registration import declare


@dataclass(frozen=True)
class _Distance(Features):
    """``[B,1,h,w]``."""

    def check(self, op: str, value: Tensor, of: str, first: Tensor) -> None:
        super().check(op, value, of, first)
        batch, _, height, width = value.shape
        checks.shape(op, self.name, value, (batch, 1, height, width), "[B, 1, h, w]")


@dataclass(frozen=True)
class _Taps(Companion):
    """``[K]`` with a middle."""

    def check(self, op: str, value: Tensor | None, of: str, first: Tensor) -> None:
        super().check(op, value, of, first)
        if value is not None and len(value) % 2 == 0:
            raise ValueError(
                f"{op}: {self.name} have shape {list(value.shape)}, expected an odd number: those "
                "of a middle and of as many neighbours on each side"
            )


def _accumulated(first: torch.dtype) -> Dtypes:
    return (accumulation_dtype(first),)


def _beside(
    kind: type[Companion],
    name: str,
    shape: Callable[..., Sequence[int | str]],
    meaning: str,
    dtypes: Callable[[torch.dtype], Dtypes] = _accumulated,
    images: int | None = None,
) -> Companion:
    return kind(
        name,
        gradient=True,
        images=images,
        shape=shape,
        meaning=meaning,
        dtypes=dtypes,
        remedy=" (distance is {dtype})",
    )


_ANOMALY_MAP = declare(
    Declaration(
        "anomaly_map",
        (
            _Distance("distance", sampled=True),
            _beside(
                Companion,
                "theta",
                lambda batch, *_: (batch, 2, 3),
                "one map for each image of distance",
                images=0,
            ),
            _beside(
                Companion,
                "evidence",
                lambda batch, one, *size: (batch, *size),
                "[B, h, w] of distance",
                lambda first: (accumulation_dtype(first), torch.bool),
                images=0,
            ),
            _beside(_Taps, "taps", lambda *_: ("K",), "weights of K neighbours, along each axis"),
            Size("size"),
        ),
        result=WeightedMaps(),
        backward=False,
        independent=("images",),
    )
)


def anomaly_map(
    distance: Tensor,
    theta: Tensor,
    evidence: Tensor,
    taps: Tensor,
    size: tuple[int, int],
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Distances of aligned images moved back into the images, smoothed, and divided by the evidence
    that went the same way: normalised convolution (Knutsson and Westin, CVPR 1993) behind a warp
    [ours].

    With W the bilinear warp by the inverse of theta, zero outside, and S the smoothing along both
    axes, reflected at the borders without repeating the outermost pixel::

        share = S W evidence,    value = S W (distance * evidence) / max(share, 1e-6)

    What carries no evidence neither counts nor pulls its neighbours down. The op is made for
    inference: its gradient is that of the formula, by torch.

    Args:
        distance: ``[B,1,h,w]``; float32, float64, float16 or bfloat16, any strides.
        theta: the maps that the images were aligned by, ``[B,2,3]``, aligned to image coordinates
            as in ``warp_affine``; float32, float64 if and only if distance is. One that has no
            inverse gives values that are not finite.
        evidence: of each distance ``[B,h,w]``; bool, or a weight in theta's dtype.
        taps: weights of K neighbours, K odd, ``[K]`` in theta's dtype; one of 1: no smoothing.
        size: ``(height, width)`` of the images.
        backend: None for the automatic choice, or a name of ``available_backends``.

    Returns:
        value and share, both ``[B,height,width]`` in float32, in float64 for float64.

    Raises:
        ValueError, TypeError: an argument of the wrong shape, device or dtype.
        BackendError: a backend asked for by name cannot run.
    """
    return _ANOMALY_MAP(distance, theta, evidence, taps, size, backend or "auto")
