"""Layers for alignment and density models, usable on their own in any PyTorch model."""

from __future__ import annotations

from fastalign.nn.backbone import FeatureBackbone
from fastalign.nn.calibration import CountCalibration
from fastalign.nn.directions import Whitening
from fastalign.nn.gaussian import DenseGaussian
from fastalign.nn.heads import Predictor, Projector, std_of_normalised
from fastalign.nn.low_rank import LowRank
from fastalign.nn.mean_prior import MeanPrior
from fastalign.nn.prior import CovariancePrior
from fastalign.nn.smoothing import gaussian_matrix, smooth
from fastalign.nn.spatial_align import Aligned, SpatialAlign

__all__ = [
    "Aligned",
    "CountCalibration",
    "CovariancePrior",
    "DenseGaussian",
    "FeatureBackbone",
    "Predictor",
    "LowRank",
    "MeanPrior",
    "Projector",
    "SpatialAlign",
    "Whitening",
    "gaussian_matrix",
    "smooth",
    "std_of_normalised",
]
