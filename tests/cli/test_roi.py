"""Regions of interest by the commands: drawn, set, judged by, shown, and refused."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from fastalign import FYD


@pytest.fixture(scope="module")
def fitted(fitted_fine):
    return fitted_fine


@pytest.fixture
def model(fitted, tmp_path):
    return shutil.copy(fitted, tmp_path / "ring.safetensors")


@pytest.fixture
def halves(tmp_path):
    """The upper and the lower half, as labelme writes them; a strip between them is ignored."""
    shapes = [
        {"label": label, "points": [[0, top], [48, bottom]], "shape_type": "rectangle"}
        for label, top, bottom in (("top", 0, 20), ("bottom", 20, 40), ("ignore", 18, 22))
    ]
    path = tmp_path / "regions.json"
    path.write_text(json.dumps({"shapes": shapes, "imageWidth": 48, "imageHeight": 40}))
    return path


def rows(out):
    with open(out / "scores.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_from_a_photograph_to_verdicts_by_region(run, model, halves, whole_ring, tmp_path):
    photo, aligned = whole_ring / "test" / "good" / "00.png", tmp_path / "aligned.png"
    outcome = run("roi", photo, "--model", model, "--out", aligned)
    assert outcome.code == 0, outcome.err
    assert "48 x 40 pixels, aligned" in outcome.out and "all of the part is judged" in outcome.out
    with Image.open(aligned) as picture:
        assert picture.size == (48, 40)
    outcome = run("roi", photo, "--model", model, "--out", aligned, "--apply", halves)
    assert outcome.code == 0, outcome.err
    limits = FYD.load(model).roi_thresholds
    for name, share in (("top", 45), ("bottom", 45)):
        assert f"region of interest {name}: " in outcome.out
        assert f"threshold {limits[name]:.6g}" in outcome.out
        assert FYD.load(model).roi.shares[name] == pytest.approx(share / 100, abs=0.03)
    with Image.open(tmp_path / "aligned.regions.png") as picture:
        drawn, plain = np.asarray(picture), np.asarray(Image.open(aligned))
    # Darker where nothing is judged.
    assert (drawn[20, :, 1] < plain[20, :, 1]).mean() > 0.9 and (drawn != plain).any(2).mean() < 0.6
    shown = run("threshold", model).out + run("info", model).out
    assert shown.count("top") == 2 and f"{limits['bottom']:.6g}" in shown
    about = json.loads(run("info", model, "--json").out)["regions of interest"]
    assert about["top"]["threshold"] == pytest.approx(limits["top"])

    out = tmp_path / "scored"
    outcome = run("predict", whole_ring / "test" / "dent", "--model", model, "--out", out)
    outcome = run(
        "predict", whole_ring / "test" / "dent", "--model", model, "--out", out, "--overwrite",
        "--save", "mask,map,regions", "--map-format", "npy",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert outcome.out.count(".png (top)") == 3
    for row in rows(out):
        scores = json.loads(row["roi"])
        assert float(row["score"]) == max(scores.values()) == scores["top"] > 1
        assert (row["threshold"], row["verdict"]) == ("1.0", "anomaly")
        assert np.isnan(np.load(out / row["map"])).mean() == pytest.approx(0.1, abs=0.06)
        mask = np.asarray(Image.open(out / row["mask"]))
        assert (mask[20] == 128).all() and (mask[5, 18:30] == 255).any()
    lines = [json.loads(line) for line in (out / "regions.jsonl").read_text().splitlines()]
    assert {region["roi"] for line in lines for region in line["regions"][:1]} == {"top"}
    coco = json.loads((out / "regions.coco.json").read_text())
    assert coco["annotations"][0]["roi"] == "top"


def test_what_is_ignored_is_no_defect(run, model, whole_ring, tmp_path):
    mask = np.full((40, 48), 255, np.uint8)
    mask[:32] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    photo = whole_ring / "train" / "good" / "01.png"
    assert run("evaluate", whole_ring, "--model", model, "--out", tmp_path / "all").code == 0
    outcome = run("roi", "--model", model, "--apply", tmp_path / "mask.png", "--drawn-on", photo)
    assert outcome.code == 0, outcome.err
    outcome = run("evaluate", whole_ring, "--model", model, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    found = rows(tmp_path / "out")
    # So small a picture is seen by the network as a whole: the dent is told there as well, less.
    before = [float(row["relative"]) for row in rows(tmp_path / "all") if row["defect"] == "dent"]
    dents = [float(row["relative"]) for row in found if row["defect"] == "dent"]
    assert max(dents) < 0.6 * min(before) and all(json.loads(row["roi"]) for row in found)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results["protocol"]["regions_of_interest"]) == ["region"]


def test_regions_that_are_cleared_leave_the_file_of_the_fit(run, model, fitted, halves):
    assert run("roi", "--model", model, "--apply", halves).code == 0
    outcome = run("threshold", model, "9", "--region", "top")
    assert outcome.code == 0 and "region of interest top" in outcome.out, outcome.err
    assert FYD.load(model).roi_thresholds["top"] == pytest.approx(9)
    assert run("roi", "--model", model, "--clear").code == 0
    with open(model, "rb") as one, open(fitted, "rb") as other:
        assert one.read() == other.read()


def test_a_fit_with_regions(run, ring, fit_options, halves, tmp_path):
    model = tmp_path / "m.safetensors"
    outcome = run("fit", ring, "--out", model, "--roi", halves, *fit_options)
    assert outcome.code == 0, outcome.err
    assert "judged: top" in outcome.out
    plain = tmp_path / "plain.safetensors"
    assert run("fit", ring, "--out", plain, *fit_options).code == 0
    set_later = FYD.load(plain).set_roi(halves)
    assert FYD.load(model).roi_thresholds == set_later.roi_thresholds


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--apply", "none.png"), 3, "none.png: cannot be read"),
        (("--apply", "a.json", "--clear"), 2, "one of --apply and --clear"),
        (("--drawn-on", "a.png"), 2, "give both"),
        (("--out", "a.png"), 2, "give PHOTO as well"),
    ],
)
def test_what_makes_no_sense_is_told_and_changes_nothing(
    run, model, fitted, arguments, code, message
):
    outcome = run("roi", "--model", model, *arguments)
    assert outcome.code == code and message in outcome.err
    assert open(model, "rb").read() == open(fitted, "rb").read()


def test_a_fit_whose_regions_cannot_be_placed_is_not_lost(run, ring, fit_options, halves, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    shapes = json.loads(halves.read_text())
    shapes["imageWidth"] = 480
    halves.write_text(json.dumps(shapes))
    model = tmp_path / "m.safetensors"
    outcome = run("fit", ring, "--out", model, "--roi", halves, *fit_options)
    assert outcome.code == 3 and "without regions" in outcome.err
    assert FYD.load(model).roi is None
    outcome = run("fit", ring, "--out", model, "--roi-photo", tmp_path / "noise.png", *fit_options)
    assert outcome.code == 2 and "give both" in outcome.err
