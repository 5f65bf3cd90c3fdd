"""Wrong arguments: the message names the argument, what was given and what was expected.

The checks are the same for every backend, so the table runs once; the fakes must refuse the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from fastalign import ops

B, C, H, W = 3, 4, 5, 6


def _features(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape or (B, C, H, W), dtype=dtype)


def _groups(size: int = B, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.zeros(size, dtype=dtype)


def _mask(*shape: int, dtype: torch.dtype = torch.bool) -> Tensor:
    return torch.ones(shape or (B, H, W), dtype=dtype)


def _theta(batch: int = B, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(batch, 2, 3, dtype=dtype)


def _mean(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape or (C, H, W), dtype=dtype)


def _whitener(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape or (H * W, C * (C + 1) // 2), dtype=dtype)


f16, f32, f64, i64 = torch.float16, torch.float32, torch.float64, torch.int64

# (op or function, arguments made anew for each run, error, every part that the message must have)
Row = tuple[str, Callable[[], tuple], type[Exception], tuple[str, ...]]


def _similarity(name: str) -> list[Row]:
    shape = f"[{B}, {C}, {H}, {W}]"
    return [
        (
            name,
            lambda: (_features(C, H, W), _features(C, H, W)),
            ValueError,
            (f"p has shape [{C}, {H}, {W}]", "expected [B, C, H, W]", "unsqueeze()"),
        ),
        (
            name,
            lambda: (_features(dtype=i64), _features(dtype=i64)),
            TypeError,
            ("p has dtype torch.int64", "expected float32, float64, float16 or bfloat16"),
        ),
        (
            name,
            lambda: (_features(), _features(B, C, W, H)),
            ValueError,
            (f"z has shape [{B}, {C}, {W}, {H}]", f"expected {shape}", "[B, C, H, W] of p"),
        ),
        (
            name,
            lambda: (_features(), _features(dtype=f16)),
            TypeError,
            ("z has dtype torch.float16", "expected torch.float32", "the dtype of p"),
        ),
        (
            name,
            lambda: (_features(), _features(), _groups(B + 1)),
            ValueError,
            (f"groups has shape [{B + 1}]", f"expected [{B}]", "one label for each image of p"),
        ),
        (
            name,
            lambda: (_features(), _features(), _groups(dtype=torch.int32)),
            TypeError,
            ("groups has dtype torch.int32", "expected torch.int64", ".long()"),
        ),
    ]


def _distance(name: str) -> list[Row]:
    return [
        (
            name,
            lambda: (_features(B, C),),
            ValueError,
            (f"h has shape [{B}, {C}]", "expected [B, C, H, W]"),
        ),
        (
            name,
            lambda: (_features(dtype=torch.complex64),),
            TypeError,
            ("h has dtype torch.complex64", "expected float32", "h.float()"),
        ),
        (
            name,
            lambda: (_features(), _mask(B, 1, H, W)),
            ValueError,
            (f"mask has shape [{B}, 1, {H}, {W}]", f"expected [{B}, {H}, {W}]", "of h"),
        ),
        (
            name,
            lambda: (_features(), _mask(dtype=f32)),
            TypeError,
            ("mask has dtype torch.float32", "expected torch.bool", "mask > 0"),
        ),
        (
            name,
            lambda: (_features(), None, _groups(1)),
            ValueError,
            ("groups has shape [1]", f"expected [{B}]", "one label for each image of h"),
        ),
    ]


WARP: list[Row] = [
    (
        "warp_affine",
        lambda: (_features(C, H, W), _theta()),
        ValueError,
        (f"x has shape [{C}, {H}, {W}]", "expected [B, C, H, W]"),
    ),
    (
        "warp_affine",
        lambda: (_features(dtype=torch.uint8), _theta()),
        TypeError,
        ("x has dtype torch.uint8", "expected float32", "x.float()"),
    ),
    (
        "warp_affine",
        lambda: (_features(), _theta(1)),
        ValueError,
        ("theta has shape [1, 2, 3]", f"expected [{B}, 2, 3]", "the B of x"),
    ),
    (
        "warp_affine",
        lambda: (_features(dtype=f16), _theta(dtype=f16)),
        TypeError,
        ("theta has dtype torch.float16", "expected float32 or float64", "theta.float()"),
    ),
    (
        "warp_affine",
        lambda: (_features(), _theta(), (4, 4), "bicubic"),
        ValueError,
        ("mode is 'bicubic'", "expected one of 'bilinear', 'nearest'"),
    ),
    (
        "warp_affine",
        lambda: (_features(), _theta(), (4, 4), "bilinear", "wrap"),
        ValueError,
        ("padding_mode is 'wrap'", "expected one of 'zeros', 'border', 'reflection'"),
    ),
    (
        "warp_affine",
        lambda: (_features(), _theta(), (0, 4)),
        ValueError,
        ("size is (0, 4)", "expected (height, width), both at least 1"),
    ),
    (
        "warp_affine",
        lambda: (_features(), _theta(), (4, 4, 4)),
        ValueError,
        ("size is (4, 4, 4)", "expected (height, width)"),
    ),
    (
        "warp_affine",
        lambda: (_features(B, C, 0, W), _theta(), (4, 4)),
        ValueError,
        (f"x has shape [{B}, {C}, 0, {W}]", "at least one row and one column"),
    ),
]

MAHALANOBIS: list[Row] = [
    (
        "mahalanobis",
        lambda: (_features(C, H, W), _mean(), _whitener()),
        ValueError,
        (f"x has shape [{C}, {H}, {W}]", "expected [B, C, H, W]"),
    ),
    (
        "mahalanobis",
        lambda: (_features(), _mean(C, W, H), _whitener()),
        ValueError,
        (f"mean has shape [{C}, {W}, {H}]", f"expected [{C}, {H}, {W}]", "[C, H, W] of x"),
    ),
    (
        "mahalanobis",
        lambda: (_features(), _mean(), _whitener(H * W, C * C)),
        ValueError,
        ("whitener has shape [30, 16]", "expected [30, 10]", "[H*W, C(C+1)/2] of x", "packed"),
    ),
    (
        "mahalanobis",
        lambda: (_features(dtype=f64), _mean(), _whitener(dtype=f64)),
        TypeError,
        ("mean has dtype torch.float32", "expected torch.float64", "x is torch.float64"),
    ),
    (
        "mahalanobis",
        lambda: (_features(dtype=f64), _mean(dtype=f64), _whitener()),
        TypeError,
        ("whitener has dtype torch.float32", "expected torch.float64", "x is torch.float64"),
    ),
    (
        "mahalanobis",
        lambda: (_features(dtype=f16), _mean(dtype=f16), _whitener()),
        TypeError,
        ("mean has dtype torch.float16", "expected torch.float32", "x is torch.float16"),
    ),
    (
        "mahalanobis",
        lambda: (_features(), _mean(), _whitener(dtype=f64)),
        TypeError,
        ("whitener has dtype torch.float64", "expected float32, float16 or bfloat16"),
    ),
]


def _backward() -> list[Row]:
    """The raw backward ops are public too: whoever calls them gets the same answers."""
    return [
        (
            "dense_similarity_backward",
            lambda: (_mean(B, W, H), _features(), _features(), None, True, True),
            ValueError,
            (f"grad has shape [{B}, {W}, {H}]", f"expected [{B}, {H}, {W}]", "[B, H, W] of p"),
        ),
        (
            "pairwise_distance_backward",
            lambda: (_mean(B, H, W, dtype=f16), _features(dtype=f16), None, None, False),
            TypeError,
            ("grad has dtype torch.float16", "expected torch.float32", "accumulation dtype of h"),
        ),
        (
            "mahalanobis_backward",
            lambda: (
                _mean(1, H, W),
                *(_features(), _mean(), _whitener()),
                *(False, True, True, True),
            ),
            ValueError,
            (f"grad has shape [1, {H}, {W}]", f"expected [{B}, {H}, {W}]", "[B, H, W] of x"),
        ),
        (
            "warp_affine_backward",
            lambda: (
                *(_features(B, C + 1, 2, 2), _features(), _theta()),
                *("bilinear", "zeros", False, True, True, False),
            ),
            ValueError,
            (f"grad has shape [{B}, {C + 1}, 2, 2]", f"expected [{B}, {C}, 2, 2]"),
        ),
        (
            "warp_affine_backward",
            lambda: (
                *(_features(B, C, 2, 2, dtype=f16), _features(), _theta()),
                *("bilinear", "zeros", False, True, True, False),
            ),
            TypeError,
            ("grad has dtype torch.float16", "expected torch.float32", "the dtype of x"),
        ),
    ]


ROWS = [
    *_similarity("dense_similarity"),
    *_similarity("dense_similarity_loss"),
    *_distance("pairwise_distance"),
    *_distance("pairwise_distance_loss"),
    *WARP,
    *MAHALANOBIS,
    *_backward(),
]


def _call(name: str, *arguments: object) -> object:
    function = getattr(ops, name, None) or getattr(torch.ops.fastalign, name)
    return function(*arguments)


def _refused(call: Callable[[], object], error: type[Exception], parts: tuple[str, ...]) -> None:
    with pytest.raises(error) as caught:
        call()
    for part in parts:
        assert re.search(re.escape(part), str(caught.value)), f"{part!r} not in: {caught.value}"


def _row_name(row: Row) -> str:
    return f"{row[0]}-{row[3][0]}"


@pytest.mark.parametrize("row", ROWS, ids=_row_name)
def test_wrong_arguments(row):
    name, make, error, parts = row
    op = name.removesuffix("_backward").removesuffix("_loss")
    _refused(lambda: _call(name, *make()), error, (f"{op}: ", *parts))


@pytest.mark.parametrize("row", ROWS, ids=_row_name)
def test_wrong_arguments_while_tracing(row):
    name, make, error, parts = row
    with FakeTensorMode():
        _refused(lambda: _call(name, *make()), error, parts)


# The argument that lies elsewhere, and the one that says where it should be.
ELSEWHERE = [
    ("dense_similarity", lambda: [_features(), _features()], 1, "z", "p"),
    ("dense_similarity_loss", lambda: [_features(), _features()], 1, "z", "p"),
    ("dense_similarity", lambda: [_features(), _features(), _groups()], 2, "groups", "p"),
    ("pairwise_distance", lambda: [_features(), _mask()], 1, "mask", "h"),
    ("pairwise_distance_loss", lambda: [_features(), None, _groups()], 2, "groups", "h"),
    ("warp_affine", lambda: [_features(), _theta()], 1, "theta", "x"),
    ("mahalanobis", lambda: [_features(), _mean(), _whitener()], 1, "mean", "x"),
    ("mahalanobis", lambda: [_features(), _mean(), _whitener()], 2, "whitener", "x"),
]


@pytest.mark.parametrize(("name", "make", "place", "argument", "other"), ELSEWHERE)
def test_tensors_on_two_devices(name, make, place, argument, other):
    """The second device is torch's meta device, which every machine has."""
    arguments = make()
    arguments[place] = arguments[place].to("meta")
    _refused(
        lambda: _call(name, *arguments),
        ValueError,
        (f"{argument} is on meta", f"expected cpu where {other} is", f"{argument}.to({other}."),
    )


def test_no_op_takes_what_is_no_tensor():
    """torch's own message, which names the argument as well."""
    with pytest.raises(RuntimeError, match="'p' must be|argument 'p'"):
        ops.dense_similarity([1.0], _features())
