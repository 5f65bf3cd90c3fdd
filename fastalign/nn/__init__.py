"""Layers for alignment and density models, usable on their own in any PyTorch model."""

from __future__ import annotations

from fastalign.nn.backbone import FeatureBackbone
from fastalign.nn.gaussian import DenseGaussian
from fastalign.nn.heads import Predictor, Projector, std_of_normalised

__all__ = [
    "DenseGaussian",
    "FeatureBackbone",
    "Predictor",
    "Projector",
    "std_of_normalised",
]
