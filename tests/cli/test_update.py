"""Good photographs taken into a model's file, on the command line."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from fastalign import FYD


@pytest.fixture
def path(fitted, tmp_path):
    return shutil.copy(fitted, tmp_path / "m.safetensors")


@pytest.fixture
def alarms(make_part, tmp_path):
    """Three good parts with a label of their own, and a file that is no photograph."""
    folder = tmp_path / "alarms"
    folder.mkdir()
    rng = np.random.default_rng(40)
    for index in range(3):
        image = make_part(rng)
        image[4:12, 30:44] = 200 + 10 * index
        Image.fromarray(image).save(folder / f"{index}.png")
    return folder


def test_the_file_is_updated_and_the_one_before_is_kept(run, path, alarms, fitted, tmp_path):
    before = path.read_bytes()
    outcome = run("update", path, "--good", alarms)
    assert outcome.code == 0, outcome.err
    assert "3 photographs taken in" in outcome.out and "x threshold -> " in outcome.out
    backup = tmp_path / "m.before-1.safetensors"
    assert backup.read_bytes() == before != path.read_bytes()
    assert str(backup) in outcome.out
    model = FYD.load(path)
    assert model.record.images["update"] == 3
    # The same again: the model knows them by now, and its file stays.
    again = run("update", path, "--good", alarms)
    assert again.code == 3 and "the model was fitted on it" in again.err
    assert not (tmp_path / "m.before-2.safetensors").exists()
    # Elsewhere, with the thresholds of before.
    out = tmp_path / "other.safetensors"
    outcome = run("update", fitted, "--good", alarms, "--out", out, "--keep-threshold")
    assert outcome.code == 0 and "as it was" not in outcome.out
    assert float(FYD.load(out).image_threshold) == float(FYD.load(fitted).image_threshold)


def test_what_cannot_be_read_or_written_leaves_the_model_alone(
    run, path, alarms, whole_ring, monkeypatch
):
    before = path.read_bytes()
    (alarms / "broken.png").write_bytes(b"\x89PNG no more")
    outcome = run("update", path, "--good", alarms)
    assert outcome.code == 3 and "broken.png" in outcome.err
    outcome = run("update", path, "--good", whole_ring / "train" / "good")
    assert outcome.code == 3 and "none of the 8 photographs can be taken in" in outcome.err

    def full(self, to):
        raise OSError(28, "No space left on device", str(to))

    monkeypatch.setattr(FYD, "save", full)
    outcome = run("update", path, "--good", alarms, "--skip-bad")
    assert outcome.code == 3 and "no space left" in outcome.err.lower()
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["alarms", "m.safetensors"]
