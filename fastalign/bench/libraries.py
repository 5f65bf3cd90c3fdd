"""What people use today for the same computation; each is an optional installation.

dense_similarity and pairwise_distance over all pairs of a batch are in none of them.
"""

from __future__ import annotations

import importlib
import math
from types import ModuleType

import torch
from torch import Tensor

from fastalign.bench.baselines import widened
from fastalign.errors import extra

INSTALL = {
    "kornia": "pip install kornia",
    "torchvision": "pip install torchvision",
    "anomalib": extra("anomalib"),
}


# What the contestants call of each.
MODULES = {
    "kornia": "kornia.geometry.transform",
    "torchvision": "torchvision.transforms.v2.functional",
    "anomalib": "anomalib.models.image.padim.anomaly_map",
}


class Absent(Exception):
    """A library that is not here; the message says how to install it."""


def load(module: str) -> ModuleType:
    """A module of one of the libraries.

    Raises:
        Absent: it is not installed, or does not load.
    """
    name = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = getattr(error, "name", None) or ""
        why = (
            "is not installed" if missing.partition(".")[0] == name else f"does not load ({error})"
        )
        raise Absent(f"{name} {why}: {INSTALL[name]}") from error


def pixel_matrix(theta: Tensor, height: int, width: int) -> Tensor:
    """``theta [B,2,3]`` (output to input, align_corners=False) as input to output in pixels."""
    halves = theta.new_tensor([width / 2, height / 2])
    centre = (theta.new_tensor([width, height]) - 1) / 2
    linear = theta[:, :, :2] * halves[:, None] / halves
    shift = theta[:, :, 2] * halves + centre - (linear @ centre)
    inverse = torch.linalg.inv(linear)
    return torch.cat([inverse, -(inverse @ shift[:, :, None])], dim=2)


def kornia_warp(x: Tensor, theta: Tensor) -> Tensor:
    """kornia's warp_affine; its matrix is in pixels and maps input to output.

    With align_corners=True, which is exact in pixels whatever the size.
    """
    warp = load(MODULES["kornia"]).warp_affine
    height, width = x.shape[2:]
    matrix = pixel_matrix(theta, height, width)
    return warp(widened(x), matrix, (height, width), align_corners=True).to(x.dtype)


def torchvision_warp(x: Tensor, degrees: float, shift: tuple[float, float]) -> Tensor:
    """torchvision's affine of a square image: one pose for the whole batch, by numbers."""
    functional = load(MODULES["torchvision"])
    side, angle = x.shape[3], math.radians(degrees)
    across, down = (side / 2 * part for part in shift)
    # Its translation is applied before the inverse turn: minus the forward turn of ours.
    translate = [
        -(math.cos(angle) * across + math.sin(angle) * down),
        -(-math.sin(angle) * across + math.cos(angle) * down),
    ]
    return functional.affine(
        widened(x),
        angle=-degrees,
        translate=translate,
        scale=1.0,
        shear=[0.0, 0.0],
        interpolation=functional.InterpolationMode.BILINEAR,
    ).to(x.dtype)


def anomalib_distance(x: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
    """The distance of anomalib's PaDiM: mean ``[C,H,W]``, inverse covariances ``[H*W,C,C]``."""
    generator = load(MODULES["anomalib"]).AnomalyMapGenerator
    return generator.compute_distance(widened(x), [mean.flatten(1), inverse])[:, 0]
