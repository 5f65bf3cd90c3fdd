"""The choice of the photographs that ship with the project."""

from __future__ import annotations

import shutil

import make_demo_data
import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def source(tmp_path):
    """A category in which test/good/3 and the first defect show the same as train/good/0."""
    root = tmp_path / "full"
    generator = np.random.default_rng(0)
    for name in ("train/good/0", "train/good/1", "test/good/2", "test/hole/4", "test/hole/5"):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(path)
        if "hole" in name:
            mask = root / "ground_truth/hole" / f"{path.stem}_mask.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 6), 255).save(mask)
    shutil.copy(root / "train/good/0.png", root / "test/good/3.png")
    Image.open(root / "train/good/0.png").save(root / "test/hole/4.png", compress_level=0)
    return root


def test_a_photograph_that_is_there_twice_is_taken_once(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make_demo_data, "STEP", 1)
    assert make_demo_data.make(source, tmp_path / "demo") == 4
    written = sorted(
        p.relative_to(tmp_path / "demo").as_posix() for p in (tmp_path / "demo").rglob("*.*")
    )
    assert written == [
        "ground_truth/hole/5_mask.png",
        "test/good/2.jpg",
        "test/hole/5.jpg",
        "train/good/0.jpg",
        "train/good/1.jpg",
    ]
    assert capsys.readouterr().out.count("left out") == 2
