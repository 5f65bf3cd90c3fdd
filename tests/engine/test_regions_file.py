import json
import math

import numpy as np
import pytest
from PIL import Image

from fastalign.engine.evaluate import evaluate_category
from fastalign.engine.lines import Lines
from fastalign.engine.predict import predict_paths
from fastalign.errors import ConfigError, InputError


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def photos(tmp_path, make_photo, save_image):
    folder = tmp_path / "in"
    save_image(folder / "good.png", make_photo(40, 60))
    image = make_photo(64, 96, (20, 10, 8, 12))
    image[50:58, 70:90] = 220
    save_image(folder / "sub" / "ä.png", image)
    (folder / "torn.png").write_text("no image")
    return folder


def test_every_prediction_has_its_regions_and_both_files(tmp_path, model, photos):
    found = predict_paths(model, photos, tmp_path / "out", outputs=["regions"], skip_bad=True)
    assert [len(item.regions) for item in found.images] == [0, 2]
    good, bad = lines(tmp_path / "out" / "regions.jsonl")
    assert (good["path"], good["verdict"], good["regions"]) == ("good.png", "good", [])
    assert (bad["path"], bad["width"], bad["height"]) == ("sub/ä.png", 96, 64)
    first, second = bad["regions"]
    # The verdict's score is the peak of the first region.
    assert first["score"] == bad["score"] == found.images[1].score > second["score"]
    assert first["photograph"]["box"] == pytest.approx([10, 20, 12, 8], abs=2)
    assert second["photograph"]["box"] == pytest.approx([70, 50, 20, 8], abs=2)
    # The stand-in's part lies as in the photograph and takes half of its frame.
    area = first["photograph"]["area"] / (64 * 96)
    assert first["part"]["area"] == pytest.approx(area, abs=1e-5)
    assert first["share_of_part"] == pytest.approx(2 * area, rel=1e-3)
    coco = json.loads((tmp_path / "out" / "regions.coco.json").read_text(encoding="utf-8"))
    assert [image["file_name"] for image in coco["images"]] == ["good.png", "sub/ä.png"]
    assert [(a["id"], a["image_id"], a["category_id"]) for a in coco["annotations"]] == [
        (1, 2, 1),
        (2, 2, 1),
    ]
    assert coco["annotations"][0]["bbox"] == first["photograph"]["box"]
    assert coco["info"]["connectivity"] == 8 and coco["info"]["pixel_threshold"] == 0.25
    assert not (tmp_path / "out" / "masks").exists()


def test_cocos_own_reader_takes_the_file(tmp_path, model, photos):
    api = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    predict_paths(model, photos, tmp_path / "out", outputs=["mask", "regions"], skip_bad=True)
    coco = api.COCO(str(tmp_path / "out" / "regions.coco.json"))
    (image,) = [image for image in coco.imgs.values() if image["verdict"] == "anomaly"]
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
    drawn = sum(coco.annToMask(annotation) for annotation in annotations)
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "sub" / "ä.png")) == 255
    assert drawn.shape == mask.shape == (image["height"], image["width"])
    # The mask's border lies between the map's pixels.
    assert (drawn & mask).sum() / (drawn | mask).sum() > 0.75


def test_small_regions_are_left_out_and_the_verdict_stays(tmp_path, model, photos):
    found = predict_paths(
        model, photos / "sub", tmp_path / "out", outputs=["regions"], least_area=130
    )
    (item,) = found.images
    assert item.verdict.text == "anomaly" and len(item.regions) == 1
    for bad in (-1, math.nan):
        with pytest.raises(ConfigError, match="least area"):
            predict_paths(model, photos / "sub", tmp_path / "new", least_area=bad)


def test_without_a_pixel_threshold_there_are_no_regions(tmp_path, make_model, photos):
    blind = make_model(math.nan)
    found = predict_paths(blind, photos / "sub", tmp_path / "out", outputs=["regions"])
    assert found.images[0].regions == ()
    assert lines(tmp_path / "out" / "regions.jsonl")[0]["verdict"] == "unsure"


def test_another_run_replaces_the_files_and_one_without_them_leaves_none(tmp_path, model, photos):
    out = tmp_path / "out"
    options = {"skip_bad": True, "overwrite": True}
    predict_paths(model, photos, out, outputs=["regions"], **options)
    predict_paths(model, photos / "good.png", out, outputs=["regions"], **options)
    assert len(lines(out / "regions.jsonl")) == 1
    predict_paths(model, photos, out, outputs=[], **options)
    assert not list(out.glob("regions*"))


def test_a_run_that_ends_early_has_the_regions_of_what_it_scored(tmp_path, model, photos):
    scored = model.predict_detail
    seen = []

    def detail(images):
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return scored(images)

    model.predict_detail = detail
    with pytest.raises(KeyboardInterrupt):
        predict_paths(model, photos, tmp_path / "out", outputs=["regions"])
    assert [item["path"] for item in lines(tmp_path / "out" / "regions.jsonl")] == ["good.png"]
    assert len(json.loads((tmp_path / "out" / "regions.coco.json").read_text())["images"]) == 1


def test_evaluate_has_them_too(tmp_path, model, category):
    found = evaluate_category(category, model, tmp_path / "out", save_regions=True)
    written = lines(tmp_path / "out" / "regions.jsonl")
    assert [item["path"] for item in written] == [item.path for item in found.images]
    assert [len(item["regions"]) for item in written] == [len(i.regions) for i in found.images]
    assert any(item["regions"] for item in written)
    assert {"regions.jsonl", "regions.coco.json"} <= set(found.files)
    evaluate_category(category, model, tmp_path / "plain")
    assert not list((tmp_path / "plain").glob("regions*"))


# Lines --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", [b"", b'{"cut', b"x" * 200_000])
def test_lines_go_on_behind_the_last_whole_one(tmp_path, tail):
    path = tmp_path / "lines"
    path.write_bytes(b"one\ntwo\n" + tail)
    file = Lines(path, keep=True, durable=True)
    file.add(b"three\n")
    file.close()
    assert path.read_bytes() == b"one\ntwo\nthree\n"
    file = Lines(path)
    file.close()
    assert path.read_bytes() == b""


def test_a_line_that_cannot_be_written_whole_is_not_there(tmp_path, monkeypatch):
    path = tmp_path / "lines"
    file = Lines(path)
    file.add(b"one\n")
    import os

    write = os.write

    def half(descriptor, data):
        if data.startswith(b"two"):
            write(descriptor, data[:2])
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(InputError, match="no space left"):
        file.add(b"two\n")
    file.add(b"three\n")
    file.close()
    assert path.read_bytes() == b"one\nthree\n"
