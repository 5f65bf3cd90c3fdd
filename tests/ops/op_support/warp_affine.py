"""``warp_affine``, resampling under an affine map: definition and calls."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from op_support import wrong
from op_support.inputs import OTHER_SIZE
from op_support.kinds import Case, Function, Row
from op_support.wrong import B, C, H, W, f16


def definition(
    x: Tensor,
    theta: Tensor,
    size: tuple[int, int],
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    *,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """What the op replaces: a grid tensor, and sampling from it."""
    grid = F.affine_grid(theta.to(dtype), [*x.shape[:2], *size], align_corners)
    return F.grid_sample(x.to(dtype), grid, mode, padding_mode, align_corners)


def _unnormalise(coordinate: float, size: int, align_corners: bool) -> float:
    if align_corners:
        return (coordinate + 1) / 2 * (size - 1)
    return ((coordinate + 1) * size - 1) / 2


def _normalised(index: int, size: int, align_corners: bool) -> float:
    if align_corners:
        return 2 * index / (size - 1) - 1 if size > 1 else 0.0
    return (2 * index + 1) / size - 1


def _pad(position: float, size: int, padding_mode: str, align_corners: bool) -> float:
    if padding_mode == "zeros":
        return position
    if padding_mode == "reflection":
        low, high = (0.0, size - 1.0) if align_corners else (-0.5, size - 0.5)
        if high == low:
            return 0.0
        while not low <= position <= high:
            position = 2 * low - position if position < low else 2 * high - position
    return min(max(position, 0.0), size - 1.0)


def by_pixel(
    x: Tensor,
    theta: Tensor,
    size: tuple[int, int],
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
) -> Tensor:
    """Sampling pixel by pixel, without torch's samplers: ``[B,C,height,width]`` in float64."""
    x, theta = x.double(), theta.double()
    batch, channels, height, width = x.shape
    out = torch.zeros(batch, channels, *size, dtype=torch.float64)

    def pixel(b: int, row: int, column: int) -> Tensor:
        if 0 <= row < height and 0 <= column < width:
            return x[b, :, row, column]
        return torch.zeros(channels, dtype=torch.float64)

    for b in range(batch):
        matrix = theta[b].tolist()
        for i in range(size[0]):
            for j in range(size[1]):
                at = (
                    _normalised(j, size[1], align_corners),
                    _normalised(i, size[0], align_corners),
                    1.0,
                )
                source = [sum(m * c for m, c in zip(line, at, strict=True)) for line in matrix]
                column = _unnormalise(source[0], width, align_corners)
                row = _unnormalise(source[1], height, align_corners)
                column = _pad(column, width, padding_mode, align_corners)
                row = _pad(row, height, padding_mode, align_corners)
                if mode == "nearest":
                    out[b, :, i, j] = pixel(b, round(row), round(column))
                    continue
                top, left = math.floor(row), math.floor(column)
                down, right = row - top, column - left
                out[b, :, i, j] = (
                    pixel(b, top, left) * (1 - down) * (1 - right)
                    + pixel(b, top, left + 1) * (1 - down) * right
                    + pixel(b, top + 1, left) * down * (1 - right)
                    + pixel(b, top + 1, left + 1) * down * right
                )
    return out


def _cases() -> list[Case]:
    name = "warp_affine"
    cases = []
    for mode in ("bilinear", "nearest"):
        for padding in ("zeros", "border", "reflection"):
            for corners in (False, True):
                words = f"{mode},{padding}{',align_corners' if corners else ''}"
                rest = mode, padding, corners
                cases += [
                    Case(
                        name,
                        words,
                        lambda i, rest=rest: (i.features(), i.theta(), OTHER_SIZE, *rest),
                    ),
                    Case(
                        f"{name}_backward",
                        words,
                        lambda i, rest=rest: (
                            i.other_size(*OTHER_SIZE),
                            i.features(),
                            i.theta(),
                            *rest,
                            True,
                            True,
                            False,
                        ),
                    ),
                ]
    bilinear = "bilinear", "zeros", False
    cases += [
        Case(name, "same size", lambda i: (i.features(), i.theta(), i.shape[2:], *bilinear)),
        Case(
            name,
            "float64 theta",
            lambda i: (i.features(), i.theta(torch.float64), OTHER_SIZE, *bilinear),
        ),
    ]
    for need_x, need_theta, deterministic in ((True, False, True), (False, True, True)):
        cases.append(
            Case(
                f"{name}_backward",
                f"x={need_x:d},theta={need_theta:d},deterministic",
                lambda i, flags=(need_x, need_theta, deterministic): (
                    i.other_size(*OTHER_SIZE),
                    i.features(),
                    i.theta(),
                    *bilinear,
                    *flags,
                ),
            )
        )
    return cases


def _functions() -> list[Function]:
    return [
        Function(
            "warp_affine",
            lambda i: (i.features(), i.theta()),
            definition,
            (0, 1),
            {"size": OTHER_SIZE, "mode": mode, "padding_mode": padding, "align_corners": corners},
        )
        for mode in ("bilinear", "nearest")
        for padding in ("zeros", "border", "reflection")
        for corners in (False, True)
    ]


WRONG: list[Row] = [
    (
        "warp_affine",
        lambda: (wrong.features(C, H, W), wrong.theta()),
        ValueError,
        (f"x has shape [{C}, {H}, {W}]", "expected [B, C, H, W]"),
    ),
    (
        "warp_affine",
        lambda: (wrong.features(dtype=torch.uint8), wrong.theta()),
        TypeError,
        ("x has dtype torch.uint8", "expected float32", "x.float()"),
    ),
    (
        "warp_affine",
        lambda: (wrong.features(), wrong.theta(1)),
        ValueError,
        ("theta has shape [1, 2, 3]", f"expected [{B}, 2, 3]", "the B of x"),
    ),
    (
        "warp_affine",
        lambda: (wrong.features(dtype=f16), wrong.theta(dtype=f16)),
        TypeError,
        ("theta has dtype torch.float16", "expected float32 or float64", "theta.float()"),
    ),
    (
        "warp_affine",
        lambda: (wrong.features(), wrong.theta(), (4, 4), "bicubic"),
        ValueError,
        ("mode is 'bicubic'", "expected one of 'bilinear', 'nearest'"),
    ),
    (
        "warp_affine",
        lambda: (wrong.features(), wrong.theta(), (4, 4), "bilinear", "wrap"),
        ValueError,
        ("padding_mode is 'wrap'", "expected one of 'zeros', 'border', 'reflection'"),
    ),
    (
        "warp_affine",
        lambda: (wrong.features(), wrong.theta(), (0, 4)),
        ValueError,
        ("size is (0, 4)", "expected (height, width), both at least 1"),
    ),
    (
        "warp_affine",
        lambda: (wrong.features(), wrong.theta(), (4, 4, 4)),
        ValueError,
        ("size is (4, 4, 4)", "expected (height, width)"),
    ),
    (
        "warp_affine",
        lambda: (wrong.features(B, C, 0, W), wrong.theta(), (4, 4)),
        ValueError,
        (f"x has shape [{B}, {C}, 0, {W}]", "at least one row and one column"),
    ),
    (
        "warp_affine_backward",
        lambda: (
            *(wrong.features(B, C + 1, 2, 2), wrong.features(), wrong.theta()),
            *("bilinear", "zeros", False, True, True, False),
        ),
        ValueError,
        (f"grad has shape [{B}, {C + 1}, 2, 2]", f"expected [{B}, {C}, 2, 2]"),
    ),
    (
        "warp_affine_backward",
        lambda: (
            *(wrong.features(B, C, 2, 2, dtype=f16), wrong.features(), wrong.theta()),
            *("bilinear", "zeros", False, True, True, False),
        ),
        TypeError,
        ("grad has dtype torch.float16", "expected torch.float32", "the dtype of x"),
    ),
]

CASES = _cases()
FUNCTIONS = _functions()
# For checks that are slow or do not depend on the options.
ONE_OF_EACH = [f for f in FUNCTIONS if str(f) == "warp_affine(bilinear,zeros)"]

# Large inputs, for a machine with a GPU.
LARGE = ((3, 5, 131, 257), (2, 64, 65, 63), (1, 3, 512, 511))
