import csv
import itertools
import json
import math
import re
import shutil
import weakref
from datetime import datetime

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_curve as sklearn_roc_curve

from fastalign.data import ImageDataset, open_category
from fastalign.engine.evaluate import evaluate_category
from fastalign.engine.evaluation_figures import roc_curve
from fastalign.engine.pipeline import Room
from fastalign.engine.results import METRICS
from fastalign.engine.table import COLUMNS
from fastalign.errors import ConfigError, InputError
from fastalign.models.fitting.source import ImageSource
from fastalign.models.fitting.survey import look_at
from fastalign.models.progress import NoProgress

KEYS = (*METRICS, "ms_per_image", "peak_rss_mb", "reasons", "protocol", "image_threshold")


def document(out):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads((out / "results.json").read_text(), parse_constant=refuse)


def test_figures_files_and_protocol(tmp_path, model, category):
    result = evaluate_category(category, model, tmp_path / "out", model_name="m.safetensors")
    found = document(tmp_path / "out")
    assert set(KEYS) <= set(found)
    for name in METRICS:
        assert found[name] == pytest.approx(1.0, abs=0.2) and found[name] == result.metrics[name]
    assert found["image_auroc"] == 1.0
    assert found["ms_per_image"] > 0 and found["alignment_ms_per_image"] > 0
    assert 20 < found["peak_rss_mb"] < 50_000
    assert found["reasons"] == {}
    protocol = found["protocol"]
    assert protocol["evaluation_size"] == "32 x 48" and protocol["seed"] == 3
    assert protocol["model_file"] == "m.safetensors" and "torch" in protocol["versions"]
    assert "0.99" in protocol["threshold_source"]
    assert protocol["images"]["good"] == protocol["images"]["anomalous"] == 3
    with (tmp_path / "out/scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [item.path for item in result.images]
    verdicts = {(row["truth"], row["defect"], row["verdict"]) for row in rows}
    assert verdicts == {("good", "good", "good"), ("anomaly", "scratch", "anomaly")}
    assert tuple(rows[0]) == COLUMNS
    assert rows[0]["rotation"] == "12.5"
    html = (tmp_path / "out/report.html").read_text()
    assert html.count("<article") == 6 and "It helps." in html and "PRO, pixels" in html
    enlarged = json.loads(re.search(r'id="photographs">(.*?)</script>', html)[1])
    sizes = {tuple(photo[1:3]) for photo in enlarged.values()}
    assert len(enlarged) == 6 and sizes == {(60, 40), (30, 50), (64, 64)}
    assert protocol["data"] == str(category) and datetime.fromisoformat(protocol["date"]).tzinfo
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(result.files)


def test_photographs_unlike_those_of_the_training_are_told(tmp_path, model, category, monkeypatch):
    usual = {"typical": "60 x 40", "aspect": [1.5, 1.5], "width": [60, 60]}
    plain = model.extra_metadata()
    monkeypatch.setattr(model, "extra_metadata", lambda: {**plain, "photographs": usual})
    result = evaluate_category(category, model, tmp_path / "out")
    assert [bool(item.reason) for item in result.images] == [False, True, True] * 2
    assert any("4 images of another shape" in warning for warning in result.warnings)
    with (tmp_path / "out/scores.csv").open(newline="") as file:
        assert [row["reason"] for row in csv.DictReader(file)] == [i.reason for i in result.images]
    assert result.images[1].reason in (tmp_path / "out/report.html").read_text()


def test_without_out_nothing_is_written(tmp_path, model, category, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert evaluate_category(category, model).files == {}
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("size", "stated"), [("native", "each image's own"), ("16", "16 x 16"), (20, "20 x 20")]
)
def test_evaluation_size(model, category, size, stated):
    result = evaluate_category(category, model, eval_size=size)
    assert result.protocol["evaluation_size"] == stated
    assert result.metrics["pixel_auroc"] > 0.9


@pytest.mark.parametrize("size", ["huge", "0", -3, ""])
def test_evaluation_size_that_is_none(model, category, size):
    with pytest.raises(ConfigError, match="evaluation size"):
        evaluate_category(category, model, eval_size=size)


def test_no_anomalies_leaves_the_keys_with_a_reason(tmp_path, model, category):
    for path in (category / "test" / "scratch").iterdir():
        path.unlink()
    (category / "test" / "scratch").rmdir()
    result = evaluate_category(category, model, tmp_path / "out")
    found = document(tmp_path / "out")
    assert set(KEYS) <= set(found)
    for name in METRICS:
        assert found[name] is None and "anomalous" in found["reasons"][name]
    assert any("no anomalous" in message for message in result.warnings)
    assert found["ms_per_image"] > 0


def test_no_good_images(model, category):
    for path in (category / "test" / "good").iterdir():
        path.unlink()
    result = evaluate_category(category, model)
    assert result.metrics["image_auroc"] is None
    assert "no good" in result.reasons["image_auroc"]
    assert result.metrics["pixel_auroc"] is not None


def test_no_masks_at_all(model, category):
    for path in (category / "ground_truth" / "scratch").iterdir():
        path.unlink()
    result = evaluate_category(category, model)
    assert result.metrics["image_auroc"] == 1.0
    assert result.metrics["aupro_30"] is None
    assert "no anomalous test image has a mask" in result.reasons["aupro_30"]


def test_one_missing_mask(model, category):
    (category / "ground_truth/scratch/1_mask.png").unlink()
    expected = r"test.scratch.1\.png.*no mask.*such as .*0_mask\.png.*1_mask\.png;.*_gt.*--skip-bad"
    with pytest.raises(InputError, match=expected):
        evaluate_category(category, model)
    result = evaluate_category(category, model, skip_bad=True)
    assert len(result.images) == 6 and result.metrics["pixel_auroc"] is not None
    assert result.counts["left_out_of_pixel_figures"] == 1
    assert [item.path for item in result.skipped] == ["test/scratch/1.png"]


def test_odd_masks_are_named(model, category):
    first, second = (category / f"ground_truth/scratch/{number}_mask.png" for number in (0, 1))
    for path, change in ((first, lambda values: 255 - values), (second, np.zeros_like)):
        Image.fromarray(change(np.asarray(Image.open(path)))).save(path)
    text = "\n".join(evaluate_category(category, model).warnings)
    assert "1 of 3 masks covers most" in text and str(first) in text
    assert "1 of 3 masks of anomalous images is empty" in text and str(second) in text


def test_a_mask_of_another_size(model, category):
    path = category / "ground_truth/scratch/2_mask.png"
    Image.fromarray(np.full((7, 9), 255, np.uint8)).save(path)
    with pytest.raises(InputError, match=r"2_mask\.png"):
        evaluate_category(category, model)
    assert (
        evaluate_category(category, model, skip_bad=True).counts["left_out_of_pixel_figures"] == 1
    )


def test_a_bad_image(tmp_path, model, category):
    (category / "test/good/1.png").write_text("text")
    with pytest.raises(InputError, match=r"test.good.1\.png"):
        evaluate_category(category, model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    result = evaluate_category(category, model, tmp_path / "out", skip_bad=True)
    assert len(result.images) == 5 and result.counts["left_out"] == 1
    assert "1 of 6 test images left out as unreadable" in result.warnings
    assert document(tmp_path / "out")["skipped"][0]["path"] == "test/good/1.png"


def test_no_test_images(tmp_path, model, category):
    shutil.rmtree(category / "test")
    with pytest.raises(InputError, match="no test images"):
        evaluate_category(category, model)


def test_without_a_threshold(tmp_path, make_model, category):
    result = evaluate_category(category, make_model(float("nan")), tmp_path / "out")
    found = document(tmp_path / "out")
    assert found["image_threshold"] is None and found["image_auroc"] == 1.0
    assert found["protocol"]["threshold_source"].startswith("none")
    assert all(item.predicted is None for item in result.images)


def test_a_residual_that_is_nan_becomes_null(tmp_path, model, category, monkeypatch):
    real = model.predict_detail

    def without_residual(images):
        detail = real(images)
        detail.residual_after = detail.residual_after * float("nan")
        return detail

    monkeypatch.setattr(model, "predict_detail", without_residual)
    evaluate_category(category, model, tmp_path / "out")
    assert document(tmp_path / "out")["alignment"]["median_residual_after"] is None
    with (tmp_path / "out/scores.csv").open(newline="") as file:
        assert {row["residual_after"] for row in csv.DictReader(file)} == {""}


def test_images_and_maps_of_the_past_are_let_go(model, category, monkeypatch):
    real, numbers, alive, most = model.predict_detail, itertools.count(), set(), []

    def watched(images):
        detail, number = real(images), next(numbers)
        alive.add(number)
        weakref.finalize(detail.map, alive.discard, number)
        most.append(len(alive))
        return detail

    monkeypatch.setattr(model, "predict_detail", watched)
    monkeypatch.setattr(Room, "of", lambda *_: Room(2))
    evaluate_category(category, model)
    assert len(most) == 6 and max(most) <= 2


def test_roc_curve_equals_sklearn_with_ties():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 9, 200).astype(float), rng.integers(0, 2, 200)
    false, true = roc_curve(scores, labels)
    expected = sklearn_roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(false, expected[0])
    np.testing.assert_allclose(true, expected[1])


# What makes figures better than they should be ----------------------------------------------------


def test_test_images_that_were_trained_on_are_named(
    tmp_path, model, category, make_photo, save_image
):
    """In another format under other names: they are in no figure, unless that is asked for."""
    save_image(category / "test/good/2.png", make_photo(64, 64, (30, 30, 20, 20)))
    for name, photograph in (("a.png", "good/2.png"), ("b.png", "scratch/0.png")):
        image = Image.open(category / "test" / photograph)
        image.save(category / "train/good" / name)
        (category / "test" / photograph).unlink()
        image.save(category / "test" / photograph.replace(".png", ".bmp"))
    samples = [sample for sample in open_category(category).train if sample.path.stem in "ab"]
    source = ImageSource(ImageDataset(samples, (32, 48)), (32, 48), torch.device("cpu"))
    record = look_at(source, None, NoProgress()).known.record()
    model.extra_metadata = lambda: {"known_images": record}
    result = evaluate_category(category, model, tmp_path / "out")
    assert [(item["path"], item["training_image"]) for item in result.seen_in_training] == [
        ("test/good/2.bmp", "a.png"),
        ("test/scratch/0.bmp", "b.png"),
    ]
    assert not any(item["in_figures"] for item in result.seen_in_training)
    told = result.warnings[0]
    assert told.startswith("2 test images show what the model was fitted on, pixel by pixel")
    assert "test/good/2.bmp = a.png" in told and "2 of them are left out" in told
    assert len(result.images) == 6 and result.metrics["image_auroc"] == 1.0
    assert result.counts["good"] == result.counts["anomalous"] == 2
    assert result.counts["trained_on"] == 2 and result.mistakes["good"] == 2
    found = document(tmp_path / "out")
    assert found["with_seen"]["image_auroc"] < 1 and told in found["warnings"]
    with (tmp_path / "out/scores.csv").open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert rows["test/good/2.bmp"]["trained_on"] == "a.png"
    assert "left out of the figures" in rows["test/good/2.bmp"]["reason"]
    assert rows["test/good/0.png"]["trained_on"] == ""
    assert "Trained on" in (tmp_path / "out/report.html").read_text()
    kept = evaluate_category(category, model, keep_seen=True)
    assert kept.metrics["image_auroc"] == found["with_seen"]["image_auroc"]
    assert kept.without_seen["image_auroc"] == 1.0 and kept.counts["trained_on"] == 0
    assert kept.metrics["pixel_auroc"] != result.metrics["pixel_auroc"]


def test_nearly_a_training_image_is_left_out_unless_a_defect_may_be_the_difference(
    tmp_path, model, demo_data
):
    """Encoded again, in another size; a file of an earlier version knows such alone."""
    plates = tmp_path / "plates"
    for kind, number in (("train/good", 12), ("test/good", 2), ("test/missing_screw", 2)):
        (plates / kind).mkdir(parents=True)
        for path in sorted((demo_data / kind).iterdir())[:number]:
            shutil.copy(path, plates / kind)
    samples = open_category(plates).train
    source = ImageSource(ImageDataset(samples, (32, 48)), (32, 48), torch.device("cpu"))
    record = look_at(source, None, NoProgress()).known.record()
    photograph = Image.open(samples[0].path)
    photograph.save(plates / "test/good/again.jpg", quality=60)
    smaller = photograph.resize((photograph.width // 2, photograph.height // 2))
    smaller.save(plates / "test/missing_screw/small.jpg")
    for digests in (record["digests"], []):
        model.extra_metadata = lambda kept=digests: {"known_images": {**record, "digests": kept}}
        result = evaluate_category(plates, model)
        assert {item["path"]: item["in_figures"] for item in result.seen_in_training} == {
            "test/good/again.jpg": False,
            "test/missing_screw/small.jpg": True,
        }
        assert not any(item["same_pixels"] for item in result.seen_in_training)
        assert any("1 labelled as an anomaly counts" in text for text in result.warnings)


def test_a_model_that_does_not_know_its_images_says_so(model, category):
    result = evaluate_category(category, model)
    assert any("does not say which images" in text for text in result.warnings)
    assert result.protocol["images_trained_on"] in result.warnings


# What cannot be judged ----------------------------------------------------------------------------


def asked(coverage=None, residual=None):
    """What a model keeps of normal images, for the stand-in, which covers eleven twelfths."""
    usual = {"least": 0.9, "median": 0.95, "most": 0.99, "images": 20}
    evidence = {}
    if coverage is not None:
        evidence["coverage"] = {**usual, "limit": coverage}
    if residual is not None:
        evidence["residual"] = {**usual, "limit": residual}
    return {"alignment": {"used": True}, "evidence": evidence}


def test_an_image_that_is_unsure_is_told_and_has_no_part_in_the_figures(tmp_path, model, category):
    def detail(images, real=model.predict_detail):
        found = real(images)
        if images.max() > 0.99:
            found.score[:], found.coverage[:], found.residual_after[:] = math.nan, 0.61, 0.714
            found.map[:] = math.nan
        return found

    model.predict_detail = detail
    model.extra_metadata = lambda: asked(0.8, 0.7)
    result = evaluate_category(category, model, tmp_path / "out")
    assert len(result.images) == 6 and result.metrics["image_auroc"] is None
    assert "no anomalous images" in result.reasons["image_auroc"]
    assert (result.counts["unsure_good"], result.counts["unsure_anomalous"]) == (0, 3)
    assert result.mistakes["unsure_anomalous"] == 3 and result.mistakes["missed"] == 0
    assert result.counts["good"] == 3 and result.counts["anomalous"] == 0
    reason = (
        "pose not found: residual 0.71, normal photographs at most 0.99; "
        "covers 61 % of the part, normal photographs 90 % to 99 %"
    )
    with (tmp_path / "out/scores.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["path"] == "test/scratch/0.png")
    assert (row["verdict"], row["reason"], row["score"]) == ("unsure", reason, "")
    assert row["covered"] == "0.61" or row["covered"].startswith("0.61")
    assert any("3 images are unsure" in text and reason in text for text in result.warnings)
    html = (tmp_path / "out/report.html").read_text()
    assert 'data-verdict="unsure"' in html and reason in html and "3 of 6" in html


def test_a_model_that_knows_nothing_of_normal_poses_says_so_once(model, category):
    model.extra_metadata = lambda: {"alignment": {"used": True}}
    told = [text for text in evaluate_category(category, model).warnings if "how normal" in text]
    assert len(told) == 1
    model.extra_metadata = lambda: {"alignment": {"used": False}}
    assert not [text for text in evaluate_category(category, model).warnings if "normal" in text]


def test_a_defect_that_was_not_looked_at_counts_as_missed(model, category):
    """Its pixels rank lowest, and how many there are is told."""
    whole = evaluate_category(category, model)

    def detail(images, real=model.predict_detail):
        found = real(images)
        found.map[:, :, :12] = math.nan
        return found

    model.predict_detail = detail
    for size in ("model", "native"):
        result = evaluate_category(category, model, eval_size=size)
        assert result.metrics["pixel_auroc"] < whole.metrics["pixel_auroc"]
        assert any("of the annotated defects lie where" in text for text in result.warnings)
