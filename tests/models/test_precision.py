"""A model that scores in less than float32: its poses, its fit and its files have nothing of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fastalign import FYD
from fastalign.errors import ConfigError
from fastalign.export import exporter
from fastalign.models import fitting
from fastalign.nn import backbone as backbones

KEPT = Path(__file__).parents[1] / "storage" / "kept" / "version1.safetensors"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FYD:
    """In 16 bits on this processor, which may be slow and gives the same."""
    monkeypatch.setattr(backbones, "missing_precision", lambda *_: None)
    monkeypatch.setattr(backbones, "check_precision", lambda *_: None)
    return FYD.load(KEPT, precision="float16")


def test_scores_poses_and_the_file(model, tmp_path):
    images = torch.rand(2, 3, *model.config.image_size)
    with torch.inference_mode():
        found, poses = model.predict_detail(images), model.align(images)
        assert model.precision == "float16"
        wanted = model.set_precision(None).predict_detail(images)
    assert model.precision == "float32"
    assert not torch.equal(found.score, wanted.score)
    torch.testing.assert_close(found.score, wanted.score, rtol=0.02, atol=0)
    assert torch.equal(poses, model.align(images))
    for name, precision in (("one", "float16"), ("other", "float32")):
        model.set_precision(precision).save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_fits_and_exports_are_float32(model, monkeypatch, tmp_path):
    seen = []

    def fit(rooms, *_, **__):
        seen.append(rooms.features.precision)
        raise KeyboardInterrupt

    class Written(Exception):
        pass

    def write(scorer, _):
        seen.append(scorer.model.precision)
        raise Written

    monkeypatch.setattr(fitting, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        model.fit(torch.rand(2, 3, 64, 64))
    kind = exporter.writers.FORMATS["torch"]
    monkeypatch.setitem(exporter.writers.FORMATS, "torch", kind._replace(write=write))
    with pytest.raises(Written):
        exporter.export_model(model, tmp_path / "part.pt2", "torch")
    assert seen == ["float32", "float32"]
    assert model.precision == "float16"


def test_a_device_without_it_says_so_and_a_model_may_be_on_its_way():
    with pytest.raises(ConfigError, match="precision float16 on cpu"):
        FYD.load(KEPT, precision="float16")
    model = FYD.load(KEPT)
    with pytest.raises(ConfigError, match="precision float16 on cpu"):
        model.set_precision("float16")
    assert model.set_precision("float16", strict=False).precision == "float32"
    with pytest.raises(ConfigError, match="precision 'half': use one of"):
        model.set_precision("half", strict=False)
