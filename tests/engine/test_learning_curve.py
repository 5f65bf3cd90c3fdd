import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fastalign.data import ImageDataset, open_category
from fastalign.engine.evaluate import evaluate_category
from fastalign.errors import InputError
from fastalign.models import fyd
from fastalign.models.fitting.source import ImageSource
from fastalign.models.fitting.survey import look_at
from fastalign.models.progress import NoProgress
from fastalign.models.record import FitRecord
from fastalign.roi import RegionsOfInterest


@pytest.fixture
def fits(make_model, monkeypatch):
    """Fits of stand-ins: numbers of training and validation images and seed of each in ``made``.
    The one with number ``failing`` finds no use for its images."""
    found = SimpleNamespace(made=[], rois=[], failing=None)

    class Fitted(type(make_model())):
        def __init__(self, config=None):
            super().__init__()
            self.record = FitRecord(seed=3, images={"train": 9, "validation": 3})

        roi = None

        def predict_detail(self, images):
            detail = super().predict_detail(images)
            detail.regions = detail.score[:, None]
            return detail

        def set_roi(self, roi, *, drawn_on):
            assert drawn_on.shape == (32, 48, 3) and drawn_on.dtype == np.uint8
            found.rois.append(roi)

        def fit(self, train, validation, *, seed):
            found.made.append((len(train), len(validation), seed))
            if len(found.made) == found.failing:
                raise InputError("copies of one")

    monkeypatch.setattr(fyd, "FYD", Fitted)
    found.model = Fitted()
    return found


@pytest.fixture
def parts(category, save_image, make_photo):
    """The category with twelve different training photographs."""
    rng = np.random.default_rng(0)
    for index in range(4, 12):
        save_image(category / "train" / "good" / f"{index}.png", make_photo())
    # Different ones, and no twins.
    for path in category.glob("train/*/*.png"):
        patches = rng.integers(60, 140, (5, 6, 3), dtype=np.uint8)
        save_image(path, patches.repeat(8, 0).repeat(10, 1))
    for path in [*category.glob("train/*/*.png"), *category.glob("test/*/*.png")]:
        picture = np.asarray(Image.open(path))
        save_image(path, picture - rng.integers(0, 9, picture.shape, dtype=np.uint8))
    return category


def curve_of(parts, out, fits, **options):
    return evaluate_category(parts, fits.model, out, learning_curve=parts, **options)


def test_each_fit_is_measured_and_written(parts, fits, tmp_path):
    fits.failing = 2
    out = tmp_path / "out"
    result = curve_of(parts, out, fits)
    # A quarter is kept apart as in the model's own fit; by the same seed.
    assert fits.made[:3] == [(4, 1, 3), (8, 2, 3), (9, 3, 3)]
    assert [len(fits.made), *{seed for *_, seed in fits.made}] == [5, 3]
    curve = result.learning_curve
    rows = curve.sizes()
    assert [(row["photographs"], row["fits"]) for row in rows] == [(5, 2), (10, 1), (12, 1)]
    for row in rows:
        assert row["image_auroc"] == (1, 1, 1) and row["mistakes"] == (0, 0, 0)
        assert row["aupro_30"][0] == pytest.approx(result.metrics["aupro_30"])
    assert [point.reason for point in curve.points].count("copies of one") == 1
    assert curve.outlook.startswith("Not enough test photographs to tell")
    # This stand-in knows nothing of its photographs.
    assert "does not say which photographs" in curve.notes[0]
    with (out / "learning_curve.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["photographs"] for row in table] == ["5", "10", "12", "5", "10"]
    assert [row["draw"] for row in table] == ["1", "1", "1", "2", "2"]
    kept = json.loads((out / "results.json").read_text())["learning_curve"]
    assert kept["outlook"] == curve.outlook and len(kept["fits"]) == 5
    html = (out / "report.html").read_text()
    assert "How many photographs are enough" in html and curve.outlook in html


def test_what_was_fitted_is_not_fitted_again(parts, fits, tmp_path, save_image):
    out = tmp_path / "out"
    first = curve_of(parts, out, fits)
    document = json.loads((out / "learning_curve.json").read_text())
    document["kept"] = document["kept"][:3]
    (out / "learning_curve.json").write_text(json.dumps(document))
    assert len(fits.made) == 5
    again = curve_of(parts, out, fits)
    assert fits.made[5:] == fits.made[3:5]
    assert again.learning_curve.sizes() == first.learning_curve.sizes()
    # Other photographs are another curve.
    name = parts / "train" / "good" / "0.png"
    save_image(name, np.asarray(Image.open(name)) - 5)
    curve_of(parts, out, fits)
    assert len(fits.made) == 12


def test_fits_that_there_is_no_time_for_are_left_out(parts, fits, tmp_path, monkeypatch):
    from fastalign.engine import learning_curve

    clock = iter(range(0, 10**6, 30))
    monkeypatch.setattr(learning_curve.time, "monotonic", lambda: float(next(clock)))
    result = curve_of(parts, None, fits, curve_minutes=2)
    assert len(fits.made) == 1
    assert "4 fits left out" in result.learning_curve.notes[-1]


def test_on_its_own_photographs_the_model_is_the_last_point(parts, fits, tmp_path):
    dataset = ImageDataset(open_category(parts).train, (32, 48))
    source = ImageSource(dataset, (32, 48), fits.model.image_threshold.device)
    known = look_at(source, None, NoProgress()).known.record()
    fits.model.record = FitRecord(seed=3, images={"train": 9, "validation": 3}, known_images=known)
    curve = curve_of(parts, None, fits).learning_curve
    assert (9, 3, 3) not in fits.made and curve.notes == ()
    (own,) = [point for point in curve.points if point.photographs == 12]
    assert own.seconds is None and own.image_auroc == 1
    # It takes no time, and has a place where there is none.
    hurried = curve_of(parts, None, fits, curve_minutes=0).learning_curve
    assert {point.photographs for point in hurried.points} == {12}


def test_regions_of_interest_are_those_of_every_fit(parts, fits):
    roi = RegionsOfInterest(("all",), np.ones((32, 48), np.uint8))
    fits.model.roi = roi
    curve_of(parts, None, fits)
    assert fits.rois == [roi] * 5


def test_too_few_photographs_are_refused(category, fits):
    with pytest.raises(InputError, match="4 good training photographs; a learning curve needs 6"):
        curve_of(category, None, fits)
