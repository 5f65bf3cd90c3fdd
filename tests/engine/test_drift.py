"""Drift over the photographs of `predict`."""

import csv
import json

import numpy as np
import pytest

from fastalign.drift.normal import Normal
from fastalign.drift.statement import COLUMNS
from fastalign.engine.predict import predict_paths
from fastalign.errors import ConfigError

PLAIN = {"outputs": (), "gallery_images": 0}


@pytest.fixture
def knowing(model):
    """A model that knows how bright the normal photographs were."""
    known = model.extra_metadata()
    normal = {"brightness": Normal.of([0.45 + 0.005 * (7 * n % 20) for n in range(20)]).record()}
    model.extra_metadata = lambda: {**known, "normal_conditions": normal}
    return model


@pytest.fixture
def folder(tmp_path, save_image):
    for index in range(40):
        level = 110 if index < 20 else 150
        save_image(tmp_path / "in" / f"{index:02d}.png", np.full((20, 30, 3), level, np.uint8))
    return tmp_path / "in"


def test_drift_is_a_row_and_a_warning(tmp_path, knowing, folder):
    result = predict_paths(knowing, folder, tmp_path / "out", batch_size=3, **PLAIN)
    with (tmp_path / "out/drift.csv").open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert tuple(reader.fieldnames) == COLUMNS
    assert [row["direction"] for row in rows] == ["darker", "darker", "brighter"]
    assert [row["state"] for row in rows] == ["began", "ended", "began"]
    assert rows[2]["since"] == "20.png" and rows[2]["unit"] == "%"
    document = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [said.to_json() for said in result.drift] == document["drift"]
    assert [said["text"] for said in document["drift"]] == [row["text"] for row in rows]
    told = [text for text in result.warnings if text.startswith("drift: ")]
    assert told == [f"drift: {rows[1]['text']}", f"drift: {rows[2]['text']}"]


def test_without_it_nothing_is_written_and_an_earlier_file_goes(tmp_path, knowing, folder):
    predict_paths(knowing, folder, tmp_path / "out", **PLAIN)
    result = predict_paths(knowing, folder, tmp_path / "out", drift=0, overwrite=True, **PLAIN)
    assert result.drift == [] and not (tmp_path / "out/drift.csv").exists()
    assert not any("drift" in text for text in result.warnings)
    with pytest.raises(ConfigError, match="at least 100"):
        predict_paths(knowing, folder, tmp_path / "other", drift=7, **PLAIN)


def test_a_model_of_an_earlier_version_says_once_that_none_is_told(tmp_path, model, folder):
    result = predict_paths(model, folder, tmp_path / "out", **PLAIN)
    assert sum("no drift is told" in text for text in result.warnings) == 1
    few = predict_paths(model, folder / "00.png", tmp_path / "few", **PLAIN)
    assert few.warnings == [] and not (tmp_path / "few/drift.csv").exists()
