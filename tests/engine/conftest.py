"""A stand-in for the fitted model: the same protocol, scores that a test can foresee."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image


@dataclass
class StandInConfig:
    image_size: tuple[int, int] = (32, 48)
    threshold_quantile: float = 0.99


class StandInModel(torch.nn.Module):
    """Score map = brightness above the grey of the good images; score = its maximum."""

    def __init__(self, threshold: float = 0.25) -> None:
        super().__init__()
        self.config = StandInConfig()
        self.register_buffer("image_threshold", torch.tensor(threshold))
        self.register_buffer("pixel_threshold", torch.tensor(threshold))
        self.density = SimpleNamespace(part_area=0.5)
        self.features = SimpleNamespace(runtime=SimpleNamespace(words="torch"))

    def forward(self, images):
        maps = images.mean(1) - 0.5
        return maps.amax((1, 2)), maps

    def align(self, images):
        return torch.eye(2, 3).expand(len(images), 2, 3)

    roi, roi_thresholds = None, {}

    def predict_detail(self, images):
        score, maps = self(images)
        batch = len(images)
        valid = torch.ones_like(maps, dtype=torch.bool)
        valid[:, :, :4] = False
        return SimpleNamespace(
            score=score,
            map=maps,
            theta=self.align(images),
            valid=valid,
            aligned=images * valid[:, None],
            residual_before=torch.full((batch,), 2.0) + score,
            residual_after=torch.full((batch,), 1.0) + score,
            shift=torch.full((batch,), 0.05),
            rotation=torch.full((batch,), 12.5),
            scale=torch.full((batch,), 1.1),
            coverage=valid.float().mean((1, 2)),
        )

    def extra_metadata(self):
        alignment = {"used": True, "summary": "Used.", "reason": "It helps."}
        return {"seed": 3, "alignment": alignment, "evidence": {}}


@pytest.fixture
def model():
    return StandInModel()


@pytest.fixture
def make_model():
    return StandInModel


def photo(height: int = 40, width: int = 60, spot: tuple[int, int, int, int] | None = None):
    """Mid-grey with slight structure; ``spot`` = (top, left, height, width) is white."""
    image = np.full((height, width, 3), 120, dtype=np.uint8)
    image[::2] = 124
    if spot is not None:
        top, left, tall, wide = spot
        image[top : top + tall, left : left + wide] = 255
    return image


@pytest.fixture
def make_photo():
    return photo


@pytest.fixture
def category(tmp_path):
    """MVTec layout, images of several sizes, three good and three defective test images."""
    root = tmp_path / "part"
    for i in range(4):
        save(root / "train" / "good" / f"{i}.png", photo(40, 60))
    for i, (height, width) in enumerate(((40, 60), (50, 30), (64, 64))):
        save(root / "test" / "good" / f"{i}.png", photo(height, width))
        spot = (4 + i, 6, 14, 12)
        save(root / "test" / "scratch" / f"{i}.png", photo(height, width, spot))
        mask = np.zeros((height, width), dtype=np.uint8)
        mask[spot[0] : spot[0] + 14, 6:18] = 255
        save(root / "ground_truth" / "scratch" / f"{i}_mask.png", mask)
    return root


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


@pytest.fixture
def save_image():
    return save
