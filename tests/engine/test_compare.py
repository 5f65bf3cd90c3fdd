import csv
import json
import math

import numpy as np
import pytest

from fastalign.engine import compare_models
from fastalign.errors import InputError
from fastalign.verdict import Verdict

NAMES = ("old.st", "new.st")


def test_labelled_photographs_are_judged_by_both(category, make_model, tmp_path):
    # To the second nothing is an anomaly; its scores are multiples of a threshold of its own.
    models = make_model(0.25), make_model(2.5)
    out = tmp_path / "out"
    found = compare_models(models, NAMES, category, out)
    assert len(found.images) == 6 and found.thresholds == (0.25, 2.5)
    assert {item.path for item in found.changed} == {f"test/scratch/{i}.png" for i in range(3)}
    for item in found.images:
        first, second = item.sides
        assert first.score == second.score
        assert first.relative == pytest.approx(10 * second.relative)
    assert found.effects == (0, 3) and found.auroc == (1.0, 1.0)
    document = json.loads((out / "compare.json").read_text())
    assert document["by_labels"]["mistakes"]["b"]["missed"] == 3
    with (out / "compare.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [item.path for item in found.images]
    assert [row["effect"] for row in rows] == ["", "", "", "broken", "broken", "broken"]
    html = (out / "compare.html").read_text()
    assert html.count('class="truth"') == 6 and html.count("<article") == 6


def test_photographs_without_labels_and_some_that_cannot_be_read(
    make_model, save_image, make_photo, tmp_path
):
    folder = tmp_path / "photos"
    save_image(folder / "a.png", make_photo())
    save_image(folder / "b.png", make_photo(spot=(2, 3, 10, 10)))
    (folder / "c.png").write_bytes(b"no image")
    models = make_model(0.25), make_model(math.nan)
    with pytest.raises(InputError, match=r"c\.png"):
        compare_models(models, NAMES, folder)
    found = compare_models(models, NAMES, folder, skip_bad=True)
    assert [item.path for item in found.images] == ["a.png", "b.png"]
    verdicts = [tuple(side.verdict for side in item.sides) for item in found.images]
    assert verdicts == [(Verdict.GOOD, Verdict.UNSURE), (Verdict.ANOMALY, Verdict.UNSURE)]
    assert not found.labelled and len(found.skipped) == 1
    assert any(text.startswith("new.st: the model has no threshold") for text in found.warnings)
    # A file and a pattern stand for photographs as well.
    assert len(compare_models(models, NAMES, folder / "a.png").images) == 1
    assert len(compare_models(models, NAMES, f"{folder}/[ab].png").images) == 2


def test_folders_of_kinds_are_labels(category, make_model):
    models = make_model(0.25), make_model(2.5)
    found = compare_models(models, NAMES, category / "test")
    labels = {item.path: item.label for item in found.images}
    assert labels == {f"{k}/{i}.png": k == "scratch" for k in ("good", "scratch") for i in range(3)}
    assert found.mistakes(1)["missed"] == 3 and not found.warnings


def test_models_of_other_sizes_get_the_photograph_at_their_own(category, make_model):
    models = make_model(), make_model()
    models[1].config.image_size = (16, 16)
    seen = []
    inner = models[1].predict_detail
    models[1].predict_detail = lambda images: (seen.append(images.shape), inner(images))[1]
    found = compare_models(models, NAMES, category)
    assert set(seen) == {(1, 3, 16, 16)}
    assert np.isfinite([side.score for item in found.images for side in item.sides]).all()
