"""The four rooms of a model together: made of a configuration, and of what a file keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastalign.models.config import FYDConfig
from fastalign.models.density import FeatureDensity
from fastalign.models.features import FeatureExtractor
from fastalign.models.maps import AnomalyMaps
from fastalign.models.pose import PoseEstimator
from fastalign.models.stored_density import dtype_of, unpacked
from fastalign.nn.prior import SHRINKAGE
from fastalign.nn.registration.aligner import search_size
from fastalign.nn.weights import EMBEDDED_NETWORK
from fastalign.ops import affine, warp_affine
from fastalign.storage.layout import DENSITY, FEATURES, MAPS, POSE
from fastalign.storage.layout import Rooms as Tensors


@dataclass(frozen=True)
class Rooms:
    """What an image goes through, in this order."""

    config: FYDConfig
    pose: PoseEstimator
    features: FeatureExtractor
    density: FeatureDensity
    maps: AnomalyMaps

    def settle(self) -> None:
        """Let each room know what it needs of the others."""
        self.features.keep(self.density.wanted)

    def parts(self) -> dict[str, Any]:
        """The optional parts, with what :func:`restore` needs besides tensors, JSON-able."""
        return {**self.pose.parts(), **self.features.parts()}


def warp(images: Tensor, theta: Tensor | None) -> Tensor:
    """Images ``[B,3,H,W]`` aligned by theta ``[B,2,3]``, None: as they are; what lies outside is
    continued from the border."""
    return images if theta is None else warp_affine(images, theta, padding_mode="border")


def or_identity(theta: Tensor | None, images: Tensor) -> Tensor:
    """theta ``[B,2,3]``, the identity where it is None."""
    return affine.identity(len(images), device=images.device) if theta is None else theta


def default_weights(config: FYDConfig) -> str | Path | None:
    """Where the weights of the network come from."""
    if config.weights is not None:
        return config.weights
    return "embedded" if config.backbone == EMBEDDED_NETWORK else "hub"


def make(config: FYDConfig, weights: str | Path | None) -> Rooms:
    """Rooms without a fit.

    Args:
        config: all options.
        weights: of the network; None: random ones, to be replaced.

    Raises:
        ConfigError: an option, or a combination, that makes no sense.
        InputError: weights that cannot be read or downloaded.
    """
    features = FeatureExtractor(
        config.image_size,
        config.backbone,
        config.layers,
        weights,
        staged=config.uses("fca"),
        fca_family=config.fca_family,
        strides=config.strides,
    )
    # A network of fixed size gets its own.
    splittable = features.backbone.splittable
    searched = search_size(config.image_size) if splittable else config.image_size
    rooms = Rooms(
        config,
        PoseEstimator(searched, config.family, config.aspect or 1.0),
        features,
        FeatureDensity(
            features.described,
            features.size,
            channels=config.channels,
            shrinkage=SHRINKAGE if config.shrinkage is None else config.shrinkage,
            storage=dtype_of(config),
        ),
        AnomalyMaps(config.image_size, features.size, config.sigma, config.top_share),
    )
    rooms.settle()
    return rooms


def restore(config: FYDConfig, tensors: Tensors, metadata: Mapping[str, Any]) -> Rooms:
    """The rooms of a fitted model.

    Args:
        config: all options.
        tensors: the ``state_dict()`` of each room.
        metadata: of the fit; of these ``parts`` and ``aspect`` count.

    Raises:
        RuntimeError, KeyError, ValueError: they do not fit each other.
    """
    # Weights that are replaced at once must not use up the caller's random numbers.
    with torch.random.fork_rng(devices=[]):
        rooms = make(config, None)
        parts = dict(metadata.get("parts") or {})
        aspect = float(metadata.get("aspect", rooms.pose.aspect))
        rooms.pose.restore(parts, tensors[POSE], rooms.features.backbone, aspect)
        rooms.features.restore(parts, tensors[FEATURES], aspect)
    rooms.density.restore(unpacked(tensors[DENSITY]))
    rooms.maps.load_state_dict(dict(tensors[MAPS]))
    rooms.settle()
    return rooms
