"""Small models fitted on the shipped photographs, each made once, and photographs to score."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastalign import FYD
from fastalign.data import list_images, load_image, prepare

# For export_options.py.
sys.path.insert(0, str(Path(__file__).parent))

# Neither square nor a multiple of what poses are searched at, so that no resampling is left out.
SIZE = (80, 112)


@pytest.fixture(scope="session")
def photographs(demo_data) -> Callable[[str, int], list[Tensor]]:
    def read(folder: str, count: int) -> list[Tensor]:
        return [prepare(load_image(p), SIZE) for p in list_images(demo_data / folder)[:count]]

    return read


@pytest.fixture(scope="session")
def batch(photographs) -> Tensor:
    """Two good photographs and two defective ones, ``[4,3,*SIZE]``."""
    return torch.stack(photographs("test/good", 2) + photographs("test/missing_screw", 2))


@pytest.fixture(scope="session")
def fitted(photographs) -> Callable[..., FYD]:
    """``fitted(**options)``: a model of these options; ``thresholds=False`` for one without."""

    @cache
    def fit(*, thresholds: bool = True, **options: object) -> FYD:
        # A search for turns is most of the time of so small a fit.
        defaults = {"image_size": SIZE, "layers": (1, 2), "channels": 12, "epochs": 1}
        defaults["family"] = "translation"
        model = FYD(**{**defaults, "skip": False, **options})
        validation = photographs("test/good", 6)[2:] if thresholds else None
        with torch.random.fork_rng():
            return model.fit(photographs("train/good", 6), validation)

    return fit
