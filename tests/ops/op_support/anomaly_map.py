"""``anomaly_map``, distances moved back into the images: definition and calls."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastalign.ops import affine
from op_support import wrong
from op_support.inputs import Arguments, Inputs, accumulation
from op_support.kinds import Case, Function, Row
from op_support.layouts import LAYOUTS, strided
from op_support.wrong import B, H, W, f16, f64


def _sample(plane: Tensor, x: float, y: float) -> float:
    """Bilinear, zero outside."""
    left, top = math.floor(x), math.floor(y)
    total = 0.0
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                share = max(0.0, 1 - abs(y - row)) * max(0.0, 1 - abs(x - column))
                total += share * float(plane[row, column])
    return total


def _warped(plane: Tensor, theta: Tensor, size: tuple[int, int]) -> Tensor:
    """A plane ``[h,w]`` where the inverse of theta sends the pixels of an image."""
    height, width = size
    matrix = torch.eye(3, dtype=f64)
    matrix[:2] = theta
    back = torch.linalg.inv(matrix)
    found = torch.zeros(size, dtype=f64)
    for y in range(height):
        for x in range(width):
            at = torch.tensor([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1, 1.0], dtype=f64)
            u, v, _ = (back @ at).tolist()
            column, row = ((u + 1) * plane.shape[1] - 1) / 2, ((v + 1) * plane.shape[0] - 1) / 2
            found[y, x] = _sample(plane, column, row)
    return found


def _bounced(place: int, count: int) -> int:
    """Step by step from one end to the other."""
    at, step = 0, 1
    for _ in range(abs(place)):
        if count > 1 and not 0 <= at + step < count:
            step = -step
        at += step if count > 1 else 0
    return at


def _smoothed(line: list[float], taps: list[float]) -> list[float]:
    radius, last = len(taps) // 2, len(line) - 1
    found = []
    for at in range(len(line)):
        total = 0.0
        for k, tap in enumerate(taps):
            place = at + k - radius
            beyond = place - last
            inside = last - _bounced(beyond, len(line)) if beyond > 0 else place
            total += tap * line[inside if place >= 0 else _bounced(place, len(line))]
        found.append(total)
    return found


def definition(
    distance: Tensor, theta: Tensor, evidence: Tensor, taps: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Pixel by pixel, in float64."""
    weights, values, shares = taps.tolist(), [], []
    for b in range(len(distance)):
        own = evidence[b].double()
        planes = []
        for plane in (distance[b, 0].double() * own, own):
            warped = _warped(plane, theta[b].double(), size)
            rows = torch.tensor([_smoothed(row, weights) for row in warped.tolist()], dtype=f64)
            columns = [_smoothed(column, weights) for column in rows.mT.tolist()]
            planes.append(torch.tensor(columns, dtype=f64).mT)
        values.append(planes[0] / planes[1].clamp_min(1e-6))
        shares.append(planes[1])
    return torch.stack(values), torch.stack(shares)


def gaussian(count: int) -> Tensor:
    offsets = torch.arange(count, dtype=f64) - count // 2
    weights = torch.exp(-0.5 * (offsets / max(count / 6, 0.5)).square())
    return weights / weights.sum()


def _laid(i: Inputs, values: Tensor) -> Tensor:
    values = values.to(i.device)
    if values.dim() == 4:
        return LAYOUTS[i.layout](values)
    return values if i.layout == "contiguous" else strided(values)


def arguments(
    i: Inputs, count: int = 5, size: tuple[int, int] | None = (11, 18), mask: bool = True
) -> Arguments:
    """A call on maps of the inputs' images and size; ``count``: of taps; size None: theirs."""
    own = accumulation(i.dtype)
    batch, _, height, width = i.shape
    distance = torch.rand(batch, 1, height, width, generator=i.generator, dtype=f64) + 0.5
    evidence = torch.rand(batch, height, width, generator=i.generator, dtype=f64)
    parameters = 0.1 * torch.randn(batch, 4, generator=i.generator, dtype=f64)
    theta = affine.from_parameters(parameters, "similarity").to(own)
    # No quotient of two small numbers: some evidence everywhere.
    weight = (evidence > 0.2) if mask else evidence.to(own) + 0.1
    beside = (_laid(i, tensor) for tensor in (theta, weight, gaussian(count).to(own)))
    return _laid(i, distance.to(i.dtype)), *beside, (height, width) if size is None else size


CASES = [
    Case("anomaly_map", words, lambda i, o=options: arguments(i, **o), ulps=1024)
    for words, options in (
        ("mask", {}),
        ("weights,same size", {"mask": False, "size": None}),
        ("longer taps than an axis", {"count": 41, "mask": False}),
        ("one tap", {"count": 1}),
    )
]
# It has two results and no op for its gradient: tests/ops/test_anomaly_map.py.
FUNCTIONS: list[Function] = []
ONE_OF_EACH: list[Function] = []

# Large inputs, for a machine with a GPU.
LARGE = ((1, 1, 32, 32), (128, 1, 32, 32), (3, 1, 48, 80), (2, 1, 260, 190))


def _call(**other: object) -> tuple[object, ...]:
    given = {
        "distance": wrong.features(B, 1, H, W),
        "theta": torch.zeros(B, 2, 3),
        "evidence": torch.ones(B, H, W, dtype=torch.bool),
        "taps": torch.ones(3),
        "size": (8, 9),
    }
    return tuple((given | other).values())


WRONG: list[Row] = [
    (
        "anomaly_map",
        lambda: _call(distance=wrong.features(B, 3, H, W)),
        ValueError,
        (f"distance has shape [{B}, 3, {H}, {W}]", f"expected [{B}, 1, {H}, {W}]"),
    ),
    (
        "anomaly_map",
        lambda: _call(theta=torch.zeros(B + 1, 2, 3)),
        ValueError,
        (f"theta has shape [{B + 1}, 2, 3]", f"expected [{B}, 2, 3]", "one map for each image"),
    ),
    (
        "anomaly_map",
        lambda: _call(theta=torch.zeros(B, 2, 3, dtype=f16)),
        TypeError,
        ("theta has dtype torch.float16", "expected torch.float32", "distance is torch.float32"),
    ),
    (
        "anomaly_map",
        lambda: _call(distance=wrong.features(B, 1, H, W, dtype=f64)),
        TypeError,
        ("theta has dtype torch.float32", "expected torch.float64"),
    ),
    (
        "anomaly_map",
        lambda: _call(evidence=torch.ones(B, W, H)),
        ValueError,
        (f"evidence has shape [{B}, {W}, {H}]", f"expected [{B}, {H}, {W}]", "of distance"),
    ),
    (
        "anomaly_map",
        lambda: _call(evidence=torch.ones(B, H, W, dtype=torch.int64)),
        TypeError,
        ("evidence has dtype torch.int64", "expected float32 or bool"),
    ),
    (
        "anomaly_map",
        lambda: _call(taps=torch.ones(4)),
        ValueError,
        ("taps have shape [4]", "an odd number"),
    ),
    (
        "anomaly_map",
        lambda: _call(taps=torch.ones(3, 3)),
        ValueError,
        ("taps has shape [3, 3]", "expected [K]"),
    ),
    (
        "anomaly_map",
        lambda: _call(size=(0, 4)),
        ValueError,
        ("size is (0, 4)", "(height, width), both at least 1"),
    ),
]
