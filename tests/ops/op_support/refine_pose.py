"""``refine_pose``, Gauss-Newton steps of candidate poses: definition and calls."""

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

CANDIDATES = 2


def _sample(image: Tensor, x: float, y: float) -> float:
    """Bilinear, where all four neighbours lie in the image."""
    left, top = math.floor(x), math.floor(y)
    share, below = x - left, y - top
    return (
        image[top, left] * (1 - share) * (1 - below)
        + image[top, left + 1] * share * (1 - below)
        + image[top + 1, left] * (1 - share) * below
        + image[top + 1, left + 1] * share * below
    )


def _centre(y: int, x: int, height: int, width: int) -> Tensor:
    """Homogeneous normalised coordinates of a pixel."""
    return torch.tensor([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1, 1.0], dtype=f64)


def _change(template: Tensor, y: int, x: int, generator: Tensor) -> Tensor:
    """Of the template at a pixel, with a parameter: by central differences, 0 at the border."""
    height, width = template.shape
    along = generator @ _centre(y, x, height, width)
    slope = torch.zeros(2, dtype=f64)
    if 0 < x < width - 1:
        slope[0] = (template[y, x + 1] - template[y, x - 1]) * width / 4
    if 0 < y < height - 1:
        slope[1] = (template[y + 1, x] - template[y - 1, x]) * height / 4
    return slope @ along


def _pass(
    image: Tensor, template: Tensor, weight: Tensor, generators: Tensor, theta: Tensor
) -> tuple[float, Tensor]:
    """Correlation at theta, and the step that follows: pixel by pixel, with means and deviations in
    place of sums of products."""
    height, width = template.shape
    rows = []
    for y in range(height):
        for x in range(width):
            to = theta @ _centre(y, x, height, width)
            if abs(to[0]) <= 1 - 2 / width and abs(to[1]) <= 1 - 2 / height:
                column = ((to[0] + 1) * width - 1) / 2
                row = ((to[1] + 1) * height - 1) / 2
                changes = [_change(template, y, x, g) for g in generators]
                value = _sample(image, float(column), float(row))
                rows.append([weight[y, x], template[y, x], value, *changes])
    seen = torch.tensor(rows, dtype=f64).reshape(len(rows), 3 + len(generators))
    total = max(float(seen[:, 0].sum()), 1e-12)
    share = seen[:, 0] / total
    means = share @ seen[:, 1:]
    template_off, image_off = seen[:, 1] - means[0], seen[:, 2] - means[1]
    of_template = max(float(share @ template_off.square()), 1e-12)
    of_image = max(float(share @ image_off.square()), 1e-12)
    correlation = float(share @ (template_off * image_off)) / math.sqrt(of_template * of_image)
    if not (float(seen[:, 0].sum()) > 0.25 * float(weight.sum()) and correlation <= 2):
        correlation = -1.0
    error = math.sqrt(of_template / of_image) * image_off - template_off
    changes = seen[:, 3:]
    hessian = changes.mT @ (share[:, None] * changes)
    eye = torch.eye(len(generators), dtype=f64)
    damped = hessian + 1e-9 * eye + 1e-3 * hessian * eye
    return correlation, torch.linalg.solve(damped, changes.mT @ (share * error))


def definition(
    edges: Tensor,
    theta: Tensor,
    template: Tensor,
    weight: Tensor,
    generators: Tensor,
    iterations: int,
) -> tuple[Tensor, Tensor]:
    """Candidate by candidate, in float64: theta ``[B,K,2,3]`` and correlation ``[B,K]``."""
    edges, theta, template, weight, generators = (
        t.double() for t in (edges, theta, template, weight, generators)
    )
    found, correlations = theta.clone(), theta.new_zeros(theta.shape[:2])
    for b in range(theta.shape[0]):
        for k in range(theta.shape[1]):
            at, best, best_at = theta[b, k], -math.inf, theta[b, k]
            for iteration in range(iterations + 1):
                correlation, step = _pass(edges[b, 0], template, weight, generators, at)
                share = min(max((correlation - best) / 1e-4 + 1, 0), 1) if iteration else 1
                best_at = best_at + share * (at - best_at)
                best = max(best, correlation)
                move = torch.zeros(3, 3, dtype=f64)
                move[:2] = -(step[:, None, None] * generators).sum(0)
                at = at @ (torch.eye(3, dtype=f64) + move + move @ move / 2)
            found[b, k], correlations[b, k] = best_at, best
    return found, correlations


def _normal(i: Inputs, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=i.generator, dtype=f64)


def _laid(i: Inputs, values: Tensor) -> Tensor:
    """On the device; maps in the layout, other tensors strided unless that is contiguous."""
    values = values.to(i.device)
    if values.dim() == 4:
        return LAYOUTS[i.layout](values)
    return values if i.layout == "contiguous" else strided(values)


def _waves(i: Inputs, batch: int) -> Tensor:
    """Smooth maps ``[batch,1,H,W]`` whose poses are well defined."""
    _, _, height, width = i.shape
    y = torch.arange(height, dtype=torch.float64)[:, None] / max(height, 1) * 5
    x = torch.arange(width, dtype=torch.float64) / max(width, 1) * 5
    phase = 0.15 * _normal(i, batch, 4, 1, 1)
    first = torch.sin(x + 0.4 * y + phase[:, 0]) + torch.cos(1.3 * y - 0.3 * x + phase[:, 1])
    return (2 + first + 0.5 * torch.sin(0.9 * x * y / 5 + phase[:, 2])).unsqueeze(1)


def arguments(i: Inputs, family: str, iterations: int) -> Arguments:
    """A call on the maps' shape, which has one channel whatever the inputs have."""
    own = accumulation(i.dtype)
    batch, _, height, width = i.shape
    batch = min(batch, 2)  # a step is a long program to an interpreter
    edges = _laid(i, _waves(i, batch).to(i.dtype))
    parameters = 0.04 * _normal(i, batch, CANDIDATES, affine.number_of_parameters(family))
    theta = affine.from_parameters(parameters, family)
    weight = torch.rand(height, width, generator=i.generator, dtype=torch.float64) + 0.2
    # As a tensor that is no map, though it has four dimensions.
    theta = _laid(i, theta.flatten(1).to(own)).view_as(theta)
    beside = (_waves(i, 1)[0, 0], weight, affine.generators(family))
    return edges, theta, *(_laid(i, tensor.to(own)) for tensor in beside), iterations


CASES = [
    Case(
        "refine_pose",
        f"{family},{steps}",
        lambda i, f=family, n=steps: arguments(i, f, n),
        ulps=1024,
    )
    for family, steps in (
        ("rotation", 1),
        ("translation", 2),
        ("rotation_translation", 2),
        ("similarity", 0),
        ("affine", 1),
    )
]
# It has two results and no op for its gradient: tests/ops/test_refine_pose.py.
FUNCTIONS: list[Function] = []
ONE_OF_EACH: list[Function] = []

# Large inputs, for a machine with a GPU: those of the models, and one that no shared memory holds.
LARGE = ((1, 1, 64, 64), (128, 1, 64, 64), (3, 1, 48, 80), (2, 1, 260, 190))


def _call(**other: Tensor) -> tuple[object, ...]:
    given = {
        "edges": wrong.features(B, 1, H, W),
        "theta": torch.zeros(B, 4, 2, 3),
        "template": torch.zeros(H, W),
        "weight": torch.zeros(H, W),
        "generators": torch.zeros(3, 2, 3),
        "iterations": 2,
    }
    return tuple((given | other).values())


WRONG: list[Row] = [
    (
        "refine_pose",
        lambda: _call(edges=wrong.features(B, 3, H, W)),
        ValueError,
        (f"edges has shape [{B}, 3, {H}, {W}]", f"expected [{B}, 1, {H}, {W}]"),
    ),
    (
        "refine_pose",
        lambda: _call(edges=wrong.features(B, 1, 0, W)),
        ValueError,
        ("at least one row and one column",),
    ),
    (
        "refine_pose",
        lambda: _call(theta=torch.zeros(B, 2, 3)),
        ValueError,
        (f"theta has shape [{B}, 2, 3]", f"expected [{B}, K, 2, 3]", "K maps for each image"),
    ),
    (
        "refine_pose",
        lambda: _call(theta=torch.zeros(B + 1, 4, 2, 3)),
        ValueError,
        (f"theta has shape [{B + 1}, 4, 2, 3]", f"expected [{B}, K, 2, 3]"),
    ),
    (
        "refine_pose",
        lambda: _call(theta=torch.zeros(B, 4, 2, 3, dtype=f16)),
        TypeError,
        ("theta has dtype torch.float16", "expected torch.float32", "edges are torch.float32"),
    ),
    (
        "refine_pose",
        lambda: _call(edges=wrong.features(B, 1, H, W, dtype=f64)),
        TypeError,
        ("theta has dtype torch.float32", "expected torch.float64", "edges are torch.float64"),
    ),
    (
        "refine_pose",
        lambda: _call(template=torch.zeros(W, H)),
        ValueError,
        (f"template has shape [{W}, {H}]", f"expected [{H}, {W}]", "[H, W] of edges"),
    ),
    (
        "refine_pose",
        lambda: _call(weight=torch.zeros(1, H, W)),
        ValueError,
        (f"weight has shape [1, {H}, {W}]", f"expected [{H}, {W}]"),
    ),
    (
        "refine_pose",
        lambda: _call(generators=torch.zeros(3, 3, 3)),
        ValueError,
        ("generators has shape [3, 3, 3]", "expected [P, 2, 3]", "one for each parameter"),
    ),
    (
        "refine_pose",
        lambda: _call(generators=torch.zeros(7, 2, 3)),
        ValueError,
        ("generators have shape [7, 2, 3]", "1 to 6 parameters", "affine.generators(family)"),
    ),
    (
        "refine_pose",
        lambda: _call(iterations=-1),
        ValueError,
        ("iterations are -1", "a number from 0 on"),
    ),
]
