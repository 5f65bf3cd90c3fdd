"""How a photograph was taken, in a few figures: light, sharpness, and where the part lies. Ours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastalign.drift.normal import LEAST, Normal
from fastalign.models.detail import Detail
from fastalign.models.view import NormalView
from fastalign.ops import affine

LIGHT = ("brightness", "sharpness", "warmth")
POSE = ("x", "y", "rotation", "scale")
# Differences that nobody would call drift: shares of the usual value, of a logarithm, degrees.
_RELATIVE = {"brightness": 0.02, "sharpness": 0.05}
_TOLERANCE = {"warmth": 0.02, "rotation": 0.2, "scale": 0.005, "coverage": 0.01}
# Of the standard deviation of scores.
_SCORE = 0.5
# Of a pixel of the model.
_PIXEL = 0.5
# Of values in 0..1: half a step of 8 bits, so that black has a logarithm.
_STEP = 0.5 / 255


def conditions_of(aligned: Tensor, valid: Tensor, theta: Tensor, aspect: float) -> Tensor:
    """The figures of :data:`LIGHT` and :data:`POSE`, ``[B,7]`` float64, of images as the model sees
    them, before they are normalised.

    ``brightness``: mean over the aligned frame, as far as the photograph covers it, 0 to 1;
    ``sharpness``: standard deviation of the Laplacian of grey over that of grey; ``warmth``:
    natural logarithm of mean red over mean blue; ``x`` and ``y``: where the middle of the aligned
    frame lies in the photograph, from its middle, as shares of its width and height, to the right
    and down; ``rotation`` of the part in degrees, clockwise; ``scale``: natural logarithm of its
    size.

    Arguments:
        aligned: images ``[B,3,H,W]`` in 0..1 in the frame of the part.
        valid: bool ``[B,h,w]``, locations that the photograph covers.
        theta: ``[B,2,3]``, aligned to photograph coordinates.
        aspect: width over height of the photographs in true units.
    """
    rows = []
    # One by one: what this takes of memory does not grow with the batch.
    for image, seen in zip(aligned.detach().float(), valid, strict=True):
        weight = F.interpolate(seen[None, None].float(), image.shape[1:], mode="nearest")[0, 0]
        total = weight.sum().clamp_min(1)
        red, green, blue = (image * weight).sum((1, 2)) / total
        grey = image.mean(0)
        mean = (red + green + blue) / 3
        variance = (weight * (grey - mean) ** 2).sum() / total
        middle, inside = grey[1:-1, 1:-1], weight[1:-1, 1:-1]
        beside = grey[1:-1, :-2] + grey[1:-1, 2:] + grey[:-2, 1:-1] + grey[2:, 1:-1]
        edges = (inside * (4 * middle - beside) ** 2).sum() / inside.sum().clamp_min(1)
        sharpness = (edges / variance.clamp_min(_STEP**2)).sqrt()
        warmth = ((red + _STEP) / (blue + _STEP)).log()
        rows.append(torch.stack([mean, sharpness, warmth]))
    light = torch.stack(rows) if rows else aligned.new_zeros((0, len(LIGHT)))
    return torch.cat([light.double(), pose_of(theta, aspect).to(light.device)], 1)


def pose_of(theta: Tensor, aspect: float) -> Tensor:
    """The figures of :data:`POSE`, ``[B,4]`` float64, of theta ``[B,2,3]``."""
    size = affine.magnitude(theta, aspect)
    place = theta[:, :, 2] / 2
    pose = torch.stack([place[:, 0], place[:, 1], size["rotation"], size["scale"].log()], 1)
    return pose.double()


def conditions_at(
    detail: Detail, index: int, aspect: float, view: NormalView | None = None
) -> dict[str, float]:
    """The statistics of image ``index`` of a batch by name, those of :func:`conditions_of` with
    ``coverage``, ``score`` and ``unjudged``, which is 1 for an image without a score; of such a one
    there is nothing else. Without alignment ``view`` tells the pose."""
    score = float(detail.score[index])
    if not math.isfinite(score):
        return {"unjudged": 1.0}
    at = slice(index, index + 1)
    images, theta = detail.aligned[at], detail.theta[at]
    if view is not None:
        theta = view.find(view.edges(images.cpu()))
    found = conditions_of(images, detail.valid[at], theta, aspect)
    values = dict(zip((*LIGHT, *POSE), found[0].tolist(), strict=True))
    coverage = float(detail.coverage[index])
    every = {**values, "coverage": coverage, "score": score, "unjudged": 0.0}
    return {name: float(f"{value:.6g}") for name, value in every.items() if math.isfinite(value)}


def normal_conditions(
    rows: Tensor, coverage: Sequence[float] | None, size: tuple[int, int]
) -> dict[str, Any] | None:
    """What a record keeps of the normal images; None where they are too few to tell drift.

    Arguments:
        rows: what :func:`conditions_of` gives of them ``[N,7]``, NaN for what is not known, in the
            order in which they were taken as far as that is known.
        coverage: of each; None: they are not aligned.
        size: height and width of the model's images.
    """
    if len(rows) < LEAST:
        return None
    columns = dict(zip((*LIGHT, *POSE), rows.T.tolist(), strict=True))
    if coverage is not None:
        columns["coverage"] = list(coverage)
    height, width = size
    tolerance = {**_TOLERANCE, "x": _PIXEL / width, "y": _PIXEL / height}
    found = {}
    for name, values in columns.items():
        middle = sorted(values)[len(values) // 2]
        slack = tolerance.get(name, _RELATIVE.get(name, 0) * abs(middle))
        normal = Normal.of(values, slack, angle=name == "rotation")
        if normal is not None:
            found[name] = normal.record()
    return found or None


def with_coverage(
    conditions: Mapping[str, Any] | None, coverage: Sequence[float]
) -> dict[str, Any] | None:
    """What a record keeps of the normal images, ``coverage`` of each being of something else, such
    as of regions of interest."""
    if not conditions or "coverage" not in conditions:
        return None if conditions is None else dict(conditions)
    before = Normal.from_record(conditions["coverage"])
    found = Normal.of(coverage, before.tolerance)
    if found is None:
        return {name: one for name, one in conditions.items() if name != "coverage"}
    return {**conditions, "coverage": replace(found, persistence=before.persistence).record()}


def normal_of(
    conditions: Mapping[str, Any] | None, scores: Mapping[str, Any] | None
) -> dict[str, Normal]:
    """The normal statistics of a record by name, with its scores of normal images, if they are
    enough; empty where it keeps none."""
    if not conditions:
        return {}
    found = {name: Normal.from_record(one) for name, one in conditions.items()}
    kept = [] if scores is None else scores["scores"]
    if len(kept) >= LEAST:
        plain = Normal(kept, len(kept))
        found["score"] = replace(plain, tolerance=_SCORE * plain.scale)
    return found
