"""A model whose scores a test can foresee, and photographs for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastalign.drift.normal import Normal
from fastalign.models.detail import Detail

# Of twenty photographs like those of `picture`, some darker and some brighter.
BRIGHTNESS = Normal.of([0.43 + 0.005 * (7 * index % 20) for index in range(20)], 0.01)
NORMAL = {"brightness": BRIGHTNESS.record()}


class BrightModel(torch.nn.Module):
    """Score map = brightness above a middle grey; score = its maximum."""

    class config:
        image_size = (16, 24)
        threshold_quantile = 0.99

    class density:
        part_area = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("image_threshold", torch.tensor(0.25))
        self.register_buffer("pixel_threshold", torch.tensor(0.25))

    roi = None

    def predict_detail(self, images):
        maps = images.mean(1) - 0.5
        batch = len(images)
        one = torch.ones(batch)
        theta = torch.eye(2, 3).expand(batch, 2, 3)
        valid = torch.ones_like(maps, dtype=torch.bool)
        score = maps.amax((1, 2))
        none = maps.new_zeros(batch, 0)
        zero = 0 * one
        return Detail(score, maps, theta, valid, images, one, one, zero, zero, one, one, none)

    def extra_metadata(self):
        return {"evidence": {}, "alignment": {"used": False}, "normal_conditions": NORMAL}


@pytest.fixture(scope="session")
def model_class():
    return BrightModel


@pytest.fixture
def model():
    return BrightModel()


def picture(defect: bool = False, size: tuple[int, int] = (32, 48)) -> Image.Image:
    """Grey; a defect is white."""
    image = np.full((*size, 3), 120, np.uint8)
    image[::2] = 124
    if defect:
        image[8:16, 12:24] = 255
    return Image.fromarray(image)


@pytest.fixture
def make_picture():
    return picture


@pytest.fixture
def write_picture():
    def write(path: Path, defect: bool = False) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(defect).save(path)
        return path

    return write


@pytest.fixture
def read_lines():
    """The lines of a journal, all of them or of one kind."""

    def read(out: Path, event: str | None = None) -> list[dict]:
        text = (out / "verdicts.jsonl").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        return [line for line in lines if event in (None, line["event"])]

    return read
