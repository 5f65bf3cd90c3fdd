"""Layers for alignment and density models, usable on their own in any PyTorch model."""

from __future__ import annotations

from fastalign.nn.backbone import FeatureBackbone

__all__ = ["FeatureBackbone"]
