"""``mahalanobis``, distance to a Gaussian per location: definition and calls."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from op_support import wrong
from op_support.definitions import root
from op_support.inputs import Inputs
from op_support.kinds import Case, Function, Row
from op_support.wrong import B, C, H, W, f16, f64


def unpack(whitener: Tensor, channels: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Packed rows to matrices ``[H*W,C,C]``, entry by entry."""
    factor = torch.zeros(len(whitener), channels, channels, dtype=dtype)
    for i in range(channels):
        for j in range(i + 1):
            factor[:, i, j] = whitener[:, i * (i + 1) // 2 + j]
    return factor


def definition(
    x: Tensor,
    mean: Tensor,
    whitener: Tensor,
    coarse: Tensor | None = None,
    scale: Tensor | None = None,
    squared: bool = False,
    *,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """``|L (x - mean)|`` location by location: ``[B,H,W]``; of rows V the matrix is I - V^T V. A
    coarser map joins x by hats around its pixels."""
    x, mean = x.to(dtype), mean.to(dtype)
    if coarse is not None:
        down, across = (hats(x.shape[d], coarse.shape[d]).to(x) for d in (2, 3))
        x = x + down @ coarse.to(dtype) @ across.mT
    batch, channels, height, width = x.shape
    if whitener.dim() == 3:
        v = whitener.to(dtype)
        matrices = torch.eye(channels, dtype=dtype) - torch.einsum("nrc,nrd->ncd", v, v)
    else:
        matrices = unpack(whitener, channels, dtype)
    rows = []
    for b in range(batch):
        for y in range(height):
            for z in range(width):
                white = matrices[y * width + z] @ (x[b, :, y, z] - mean[:, y, z])
                square = white.square().sum()
                rows.append(square if squared else root(square))
    values = torch.stack(rows).view(batch, height, width)
    return values if scale is None else values * scale.to(dtype)


def hats(count: int, coarse: int) -> Tensor:
    """Weights ``[count, coarse]`` of the pixels of a coarser axis at those of an axis."""
    places = (torch.arange(count, dtype=f64) + 0.5) * coarse / count - 0.5
    away = places.clamp(0, coarse - 1)[:, None] - torch.arange(coarse, dtype=f64)
    return (1 - away.abs()).clamp_min(0)


# Whiteners by the words that stand for them. Eleven rows are two times four and three, so that no
# tile of rows is whole.
WHITENERS: dict[str, Callable[[Inputs], Tensor]] = {
    "": Inputs.whitener,
    "low rank": lambda i: i.low_rank(11),
    "rank 0": lambda i: i.low_rank(0),
}


# Words, a whitener, and which there are of a coarser map and a scale.
BESIDE: tuple[tuple[str, Callable[[Inputs], Tensor], tuple[bool, bool]], ...] = (
    ("coarse,scale", Inputs.whitener, (True, True)),
    ("low rank,coarse", WHITENERS["low rank"], (True, False)),
    ("low rank,coarse,scale", WHITENERS["low rank"], (True, True)),
    ("low rank,scale", WHITENERS["low rank"], (False, True)),
)


def beside(i: Inputs, given: tuple[bool, bool]) -> tuple[Tensor | None, Tensor | None]:
    """A coarser map along one axis, and a scale."""
    height, width = i.shape[2:]
    coarse = i.other_size(height + 1, max(1, width // 2)) if given[0] else None
    return coarse, i.scale() if given[1] else None


def _backward(options: str, whitener: Callable[[Inputs], Tensor], squared: bool, *need: bool):
    return Case(
        "mahalanobis_backward",
        options,
        lambda i: (i.location_gradient(), i.features(), i.mean(), whitener(i), squared, *need),
    )


def _cases() -> list[Case]:
    cases = []
    for form, whitener in WHITENERS.items():
        for squared in (False, True):
            options = ",".join(filter(None, (form, "squared" if squared else "")))
            cases += [
                Case(
                    "mahalanobis",
                    options,
                    lambda i, w=whitener, s=squared: (
                        *(i.features(), i.mean(), w(i)),
                        *(None, None, s),
                    ),
                ),
                _backward(options, whitener, squared, True, True, True),
            ]
        for need in ((True, False, False), (False, True, False), (False, False, True)):
            words = "x={:d},mean={:d},whitener={:d}".format(*need)
            options = ",".join(filter(None, (form, words)))
            cases.append(_backward(options, whitener, False, *need))
    for words, whitener, which in BESIDE:
        cases.append(
            Case(
                "mahalanobis",
                words,
                lambda i, w=whitener, g=which: (i.features(), i.mean(), w(i), *beside(i, g), False),
            )
        )
    return [case for case in cases if case.options == "rank 0" or "rank 0" not in case.options]


def _functions() -> list[Function]:
    return [
        Function(
            "mahalanobis",
            lambda i, w=whitener: (i.features(), i.mean(), w(i)),
            definition,
            (0, 1) if form == "rank 0" else (0, 1, 2),
            {"squared": squared},
            given=form,
        )
        for form, whitener in WHITENERS.items()
        for squared in (False, True)
        if form != "rank 0" or not squared
    ]


def _right() -> tuple[Tensor, Tensor, Tensor]:
    return wrong.features(), wrong.mean(), wrong.whitener()


WRONG: list[Row] = [
    (
        "mahalanobis",
        lambda: (wrong.features(C, H, W), wrong.mean(), wrong.whitener()),
        ValueError,
        (f"x has shape [{C}, {H}, {W}]", "expected [B, C, H, W]"),
    ),
    (
        "mahalanobis",
        lambda: (wrong.features(), wrong.mean(C, W, H), wrong.whitener()),
        ValueError,
        (f"mean has shape [{C}, {W}, {H}]", f"expected [{C}, {H}, {W}]", "[C, H, W] of x"),
    ),
    (
        "mahalanobis",
        lambda: (wrong.features(), wrong.mean(), wrong.whitener(H * W, C * C)),
        ValueError,
        ("whitener has shape [30, 16]", "expected [30, 10]", "[H*W, C(C+1)/2] of x", "packed"),
    ),
    (
        "mahalanobis",
        lambda: (wrong.features(), wrong.mean(), wrong.whitener(H * W, 2, C + 1)),
        ValueError,
        (f"whitener has shape [30, 2, {C + 1}]", f"expected [30, R, {C}]", "[H*W, R, C] of x"),
    ),
    (
        "mahalanobis",
        lambda: (wrong.features(), wrong.mean(), wrong.whitener(H * W, 2, C, dtype=f64)),
        TypeError,
        ("whitener has dtype torch.float64", "expected float32, float16 or bfloat16"),
    ),
    (
        "mahalanobis",
        lambda: (wrong.features(dtype=f64), wrong.mean(), wrong.whitener(dtype=f64)),
        TypeError,
        ("mean has dtype torch.float32", "expected torch.float64", "x is torch.float64"),
    ),
    (
        "mahalanobis",
        lambda: (wrong.features(dtype=f64), wrong.mean(dtype=f64), wrong.whitener()),
        TypeError,
        ("whitener has dtype torch.float32", "expected torch.float64", "x is torch.float64"),
    ),
    (
        "mahalanobis",
        lambda: (wrong.features(dtype=f16), wrong.mean(dtype=f16), wrong.whitener()),
        TypeError,
        ("mean has dtype torch.float16", "expected torch.float32", "x is torch.float16"),
    ),
    (
        "mahalanobis",
        lambda: (wrong.features(), wrong.mean(), wrong.whitener(dtype=f64)),
        TypeError,
        ("whitener has dtype torch.float64", "expected float32, float16 or bfloat16"),
    ),
    (
        "mahalanobis",
        lambda: (*_right(), {"coarse": wrong.features(B, C + 1, 2, 3)}),
        ValueError,
        (f"coarse has shape [{B}, {C + 1}, 2, 3]", f"expected [{B}, {C}, h, w]", "B and C of x"),
    ),
    (
        "mahalanobis",
        lambda: (*_right(), {"coarse": wrong.features(B, C, 0, 3)}),
        ValueError,
        ("coarse has shape", "at least one row and one column"),
    ),
    (
        "mahalanobis",
        lambda: (*_right(), {"coarse": wrong.features(B, C, 2, 3, dtype=f16)}),
        TypeError,
        ("coarse has dtype torch.float16", "expected torch.float32", "the dtype of x"),
    ),
    (
        "mahalanobis",
        lambda: (*_right(), {"scale": torch.ones(W, H)}),
        ValueError,
        (f"scale has shape [{W}, {H}]", f"expected [{H}, {W}]", "[H, W] of x"),
    ),
    (
        "mahalanobis",
        lambda: (*_right(), {"scale": torch.ones(H, W, dtype=f64)}),
        TypeError,
        ("scale has dtype torch.float64", "expected torch.float32", "x is torch.float32"),
    ),
    (
        "mahalanobis_backward",
        lambda: (
            wrong.mean(1, H, W),
            *(wrong.features(), wrong.mean(), wrong.whitener()),
            *(False, True, True, True),
        ),
        ValueError,
        (f"grad has shape [1, {H}, {W}]", f"expected [{B}, {H}, {W}]", "[B, H, W] of x"),
    ),
]

CASES = _cases()
FUNCTIONS = _functions()
# For checks that are slow or do not depend on the options.
ONE_OF_EACH = [f for f in FUNCTIONS if not f.options["squared"] and f.given != "rank 0"]

# Large inputs, for a machine with a GPU.
LARGE = ((1, 100, 17, 19), (8, 100, 17, 19), (70, 33, 9, 8), (3, 257, 5, 4))
