"""Every numeric option of the public classes: finite, in range, named."""

from __future__ import annotations

import math

import pytest
import torch

from fastalign import FYDConfig
from fastalign.data import Depth, ImageDataset, Sample, resize_image, split_validation
from fastalign.errors import ConfigError
from fastalign.metrics import PixelMetrics
from fastalign.models.maps import AnomalyMaps
from fastalign.models.pose import PoseEstimator
from fastalign.nn import CountCalibration, DenseGaussian, Predictor, Projector, SpatialAlign
from fastalign.nn.registration import GaussNewtonRefiner, TemplateBank

_SAMPLE = Sample("x.png", 0, "good")  # type: ignore[arg-type]
_NO_NUMBERS = (math.nan, math.inf, -math.inf, "1", None, True, -1)


def _bank(**options):
    return TemplateBank(torch.zeros(1), torch.zeros(1, 2, 4, 4), **options)


def _refiner(**options):
    return GaussNewtonRefiner(torch.rand(2, 4, 4), torch.ones(4, 4), "translation", **options)


MAKERS = {
    "DenseGaussian": (lambda **o: DenseGaussian(**{"channels": 2, "size": (2, 2), **o})),
    "CountCalibration": (
        lambda **o: CountCalibration(torch.rand(4, 1, 2), **{"shrinkage": 0.1, **o})
    ),
    "SpatialAlign": (lambda **o: SpatialAlign(**{"in_channels": 3, **o})),
    "Projector": (lambda **o: Projector(**{"in_channels": 3, **o})),
    "Predictor": (lambda **o: Predictor(**{"channels": 3, **o})),
    "TemplateBank": _bank,
    "GaussNewtonRefiner": _refiner,
    "Maps": (lambda **o: AnomalyMaps((16, 16), (4, 4), **o)),
    "Pose": (lambda **o: PoseEstimator((16, 16), **o)),
    "PixelMetrics": (lambda **o: PixelMetrics(limits=[o["limit"]])),
    "Depth": (lambda **o: Depth(**o)),
    "ImageDataset": (lambda **o: ImageDataset([_SAMPLE], (8, 8), **o)),
    "split_validation": (lambda **o: split_validation([_SAMPLE], seed=0, **o)),
    "FYDConfig": (lambda **o: FYDConfig(**o)),
}
# What is too large, or out of place, for each besides what is no number at all; None is allowed
# where it stands for a default.
OPTIONS = [
    ("DenseGaussian", "channels", (0, 1.5)),
    ("DenseGaussian", "shrinkage", (1e7,)),
    ("DenseGaussian", "min_count", (0, 1.5)),
    ("CountCalibration", "shrinkage", (1e7,)),
    ("CountCalibration", "seed", (2**66,)),
    ("SpatialAlign", "in_channels", (0, 2.5)),
    ("SpatialAlign", "hidden", (0, 10**9)),
    ("SpatialAlign", "grid", (3, 10**9)),
    ("SpatialAlign", "max_shift", (0, 1e9)),
    ("SpatialAlign", "max_angle", (0, 361)),
    ("SpatialAlign", "max_scale", (1, 1e9)),
    ("SpatialAlign", "aspect", (0, 1e9)),
    ("Projector", "in_channels", (0, 1.5)),
    ("Projector", "hidden", (0,)),
    ("Projector", "out_channels", (0,)),
    ("Predictor", "channels", (0,)),
    ("Predictor", "hidden", (0,)),
    ("TemplateBank", "aspect", (0,)),
    ("TemplateBank", "max_shift", (1.5,)),
    ("GaussNewtonRefiner", "aspect", (0, 1e9)),
    ("GaussNewtonRefiner", "iterations", (0.5, 10**9)),
    ("Maps", "sigma", (1e9,)),
    ("Pose", "aspect", (0, 1e9)),
    ("PixelMetrics", "limit", (0, 1.1)),
    ("Depth", "bits", (7, 17)),
    ("ImageDataset", "workers", (0, 10**6)),
    ("split_validation", "fraction", (1,)),
    ("FYDConfig", "momentum", (1, 2.0)),
    ("FYDConfig", "learning_rate", (1e30,)),
    ("FYDConfig", "ica_learning_rate", (1e30,)),
    ("FYDConfig", "ica_weight", (1e30,)),
    ("FYDConfig", "fa_weight", (1e30,)),
    ("FYDConfig", "threshold_quantile", (1.1,)),
    ("FYDConfig", "min_share", (1.1,)),
]
_DEFAULTS = {"hidden", "out_channels", "bits", "workers"}


@pytest.mark.parametrize(("made", "option", "others"), OPTIONS)
def test_what_is_no_number_in_range_is_named(made, option, others):
    for value in (*_NO_NUMBERS, *others):
        if value is None and option in _DEFAULTS:
            continue
        word = {"fraction": "fraction", "bits": "depth"}.get(option, option).replace("_", ".")
        with pytest.raises(ConfigError, match=rf"{word}.* (give|use) "):
            MAKERS[made](**{option: value})


@pytest.mark.parametrize("size", [(0, 2), (2,), 2, "22", (math.nan, 2), (2, 2.5), None])
def test_sizes_are_two_whole_numbers(size):
    image = torch.zeros(4, 4, 3, dtype=torch.uint8).numpy()
    for make in (
        lambda: DenseGaussian(2, size),
        lambda: resize_image(image, size),
        lambda: ImageDataset([_SAMPLE], size),
    ):
        with pytest.raises(ConfigError, match="size .*height|size .*H, W"):
            make()


def test_bounds_themselves_are_taken():
    SpatialAlign(3, max_angle=360, max_shift=10)
    assert DenseGaussian(2, (2, 3), shrinkage=0).shrinkage == 0
    assert FYDConfig(momentum=0, learning_rate=0, threshold_quantile=1).momentum == 0
