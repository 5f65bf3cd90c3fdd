from __future__ import annotations

import numpy as np
import pytest
from PIL import Image


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
