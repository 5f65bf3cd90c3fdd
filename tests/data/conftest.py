from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def make(tmp_path):
    """Write small images: ``make("a/b.png", ...)``; a folder of tests is its own tree."""

    def write(*names, size=(6, 8), value=200):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)
        return tmp_path

    return write


@pytest.fixture
def tree(tmp_path):
    """Write photographs, which have many values, and masks, which have two:
    ``tree(["a/0.png"], marked=["a/0_GT.png"], blank=["a/1_GT.png"])``."""
    generator = np.random.default_rng(0)

    def write(photographs=(), *, marked=(), blank=()):
        for names, kind in ((photographs, None), (marked, 255), (blank, 0)):
            for name in names:
                path = tmp_path / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind is None:
                    pixels = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
                else:
                    pixels = np.zeros((12, 16), np.uint8)
                    pixels[2:5, 3:8] = kind
                Image.fromarray(pixels).save(path)
        return tmp_path

    return write
