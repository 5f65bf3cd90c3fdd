import csv
import errno
import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from fastalign.engine.pipeline import Room
from fastalign.engine.predict import predict_paths
from fastalign.errors import ConfigError, InputError
from fastalign.verdict import Verdict


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def files_below(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_every_output_has_the_size_and_the_frame_of_its_image(
    tmp_path, model, make_photo, save_image
):
    save_image(tmp_path / "in" / "a.png", make_photo(40, 60))
    save_image(tmp_path / "in" / "b.png", make_photo(90, 50, (20, 5, 30, 20)))
    result = predict_paths(model, tmp_path / "in", tmp_path / "out")
    assert [item.verdict.text for item in result.images] == ["good", "anomaly"]
    for name, size in (("a", (40, 60)), ("b", (90, 50))):
        scores = np.asarray(Image.open(tmp_path / "out/maps" / f"{name}.tiff"))
        mask = np.asarray(Image.open(tmp_path / "out/masks" / f"{name}.png"))
        overlay = np.asarray(Image.open(tmp_path / "out/overlays" / f"{name}.jpg"))
        assert scores.dtype == np.float32 and scores.shape == size
        assert mask.dtype == np.uint8 and mask.shape == size
        assert overlay.dtype == np.uint8 and overlay.shape == (*size, 3)
        assert set(np.unique(mask)) <= {0, 255}
        assert ((mask == 255) == (scores > 0.25)).all()
    mask = np.asarray(Image.open(tmp_path / "out/masks/b.png")) > 0
    rows, columns = np.nonzero(mask)
    assert abs(rows.mean() - 34.5) < 2 and abs(columns.mean() - 14.5) < 2
    assert files_below(tmp_path / "out") == [
        "maps/a.png",
        "maps/a.tiff",
        "maps/b.png",
        "maps/b.tiff",
        "masks/a.png",
        "masks/b.png",
        "overlays/a.jpg",
        "overlays/b.jpg",
        "predictions.json",
        "report.html",
        "scores.csv",
    ]


def test_tables_say_what_was_written(tmp_path, model, make_photo, save_image):
    save_image(tmp_path / "in" / "sub" / "ä,b.png", make_photo(40, 60, (5, 5, 9, 9)))
    result = predict_paths(model, tmp_path / "in", tmp_path / "out", map_format="npy")
    (row,) = table(tmp_path / "out" / "scores.csv")
    document = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert row["path"] == "sub/ä,b.png" and row["verdict"] == "anomaly"
    assert float(row["score"]) == document["images"][0]["score"] == result.images[0].score
    assert document["image_threshold"] == 0.25
    for name in ("map", "mask", "overlay"):
        assert (tmp_path / "out" / row[name]).is_file()
    scores = np.load(tmp_path / "out" / row["map"], allow_pickle=False)
    assert scores.dtype == np.float32 and scores.shape == (40, 60)
    html = (tmp_path / "out/report.html").read_text()
    assert f"{float(row['score']) / 0.25:.2f} × threshold" in html and "load average" in html
    assert '{"0": ["data:image/jpeg;base64,' in html and ", 60, 40, 60, 40]}" in html


def test_scores_are_not_clamped_and_maps_are_raw(tmp_path, make_model, make_photo, save_image):
    save_image(tmp_path / "in" / "dark.png", make_photo() // 4)
    predict_paths(make_model(), tmp_path / "in", tmp_path / "out", map_format="npy")
    scores = np.load(tmp_path / "out/maps/dark.npy")
    assert scores.max() < 0


def test_equal_names_in_sub_folders_and_endings_do_not_meet(
    tmp_path, model, make_photo, save_image
):
    source = tmp_path / "in"
    for name in ("a/1.png", "b/1.png", "b/1.bmp", "b/1.x.png", "1.png"):
        save_image(source / name, make_photo())
    result = predict_paths(model, source, tmp_path / "out", outputs=["mask"])
    assert files_below(tmp_path / "out" / "masks") == [
        "1.png",
        "a/1.png",
        "b/1.bmp.png",
        "b/1.png.png",
        "b/1.x.png",
    ]
    assert len({item.mask for item in result.images}) == 5


def test_outputs_of_an_earlier_run_are_no_inputs(tmp_path, model, make_photo, save_image):
    save_image(tmp_path / "a.png", make_photo())
    first = predict_paths(model, tmp_path, tmp_path / "out")
    again = predict_paths(model, tmp_path, tmp_path / "out", overwrite=True)
    assert len(first.images) == len(again.images) == 1
    assert any("written by `fastalign predict`" in text for text in again.warnings)


def test_batches_give_the_same_scores(tmp_path, model, make_photo, save_image):
    for i in range(5):
        save_image(tmp_path / "in" / f"{i}.png", make_photo(40 + i, 50, (i, i, 9, 9)))
    plain = {"outputs": (), "gallery_images": 0}
    one = predict_paths(model, tmp_path / "in", tmp_path / "1", **plain)
    three = predict_paths(model, tmp_path / "in", tmp_path / "3", batch_size=3, **plain)
    assert [item.score for item in one.images] == [item.score for item in three.images]


def test_upright_as_the_exif_orientation_says(tmp_path, model, make_photo):
    image = Image.fromarray(make_photo(40, 60, (0, 0, 12, 12)))
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "in").mkdir()
    image.save(tmp_path / "in" / "turned.png", exif=exif)
    predict_paths(model, tmp_path / "in", tmp_path / "out", map_format="npy")
    scores = np.load(tmp_path / "out/maps/turned.npy")
    assert scores.shape == (60, 40)
    assert scores[:12, -12:].mean() > scores[:12, :12].mean()


def test_without_a_threshold_scores_are_written_and_nothing_is_labelled(
    tmp_path, make_model, make_photo, save_image
):
    save_image(tmp_path / "in" / "a.png", make_photo())
    result = predict_paths(make_model(float("nan")), tmp_path / "in", tmp_path / "out")
    assert result.images[0].verdict is Verdict.UNSURE and result.images[0].mask is None
    assert any("no threshold" in message for message in result.warnings)
    (row,) = table(tmp_path / "out" / "scores.csv")
    assert row["verdict"] == "unsure" and "threshold" in row["reason"]
    assert row["mask"] == row["threshold"] == row["relative"] == "" and row["score"]
    assert json.loads((tmp_path / "out/predictions.json").read_text())["image_threshold"] is None
    given = predict_paths(
        make_model(float("nan")), tmp_path / "in", tmp_path / "given", threshold=-9.0
    )
    assert given.images[0].verdict is Verdict.ANOMALY


def test_an_image_that_cannot_be_read_is_a_row_with_its_reason(
    tmp_path, model, make_photo, save_image
):
    for name in ("1.png", "3.png"):
        save_image(tmp_path / "in" / name, make_photo())
    bad = tmp_path / "in" / "2.png"
    bad.write_text("not an image")
    with pytest.raises(InputError, match=r"2\.png: .* 2 of 3 images are scored"):
        predict_paths(model, tmp_path / "in", tmp_path / "out")
    rows = table(tmp_path / "out" / "scores.csv")
    assert [row["path"] for row in rows] == ["1.png", "2.png", "3.png"]
    assert rows[1]["verdict"] == "unsure" and "text file" in rows[1]["reason"]
    assert rows[1]["score"] == rows[1]["map"] == ""
    document = json.loads((tmp_path / "out/predictions.json").read_text())
    assert document["skipped"][0]["path"] == "2.png" and document["complete"] is True
    again = predict_paths(model, tmp_path / "in", tmp_path / "again", skip_bad=True)
    assert [item.path for item in again.images] == ["1.png", "3.png"]
    assert [item.path for item in again.skipped] == ["2.png"]
    assert table(tmp_path / "again" / "scores.csv")[1] == rows[1]
    with pytest.raises(InputError, match=r"the only image could not be read.*2\.png"):
        predict_paths(model, bad, tmp_path / "only", skip_bad=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_what_was_scored_before_an_early_end_is_in_the_table(
    tmp_path, model, make_photo, save_image, error
):
    for index in range(4):
        save_image(tmp_path / "in" / f"{index}.png", make_photo())
    scored = model.predict_detail
    seen = []

    def detail(images):
        seen.append(1)
        if len(seen) == 3:
            # What is there while the run goes on.
            assert len(table(tmp_path / "out" / "scores.csv")) <= 2
            raise error
        return scored(images)

    model.predict_detail = detail
    with pytest.raises(error):
        predict_paths(model, tmp_path / "in", tmp_path / "out")
    rows = table(tmp_path / "out" / "scores.csv")
    assert [row["path"] for row in rows] == ["0.png", "1.png"]
    assert all((tmp_path / "out" / row["mask"]).is_file() for row in rows)
    document = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert document["complete"] is False and document["images_given"] == 4
    assert f"{error.__name__} while computing 2.png" in document["warnings"][0]
    assert not [name for name in files_below(tmp_path / "out") if "/." in f"/{name}"]


def test_an_early_end_before_the_first_row_leaves_nothing(tmp_path, model, make_photo, save_image):
    save_image(tmp_path / "in" / "a.png", make_photo())
    model.predict_detail = lambda images: (_ for _ in ()).throw(RuntimeError)
    with pytest.raises(RuntimeError):
        predict_paths(model, tmp_path / "in", tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_nothing_to_score(tmp_path, model):
    (tmp_path / "empty").mkdir()
    for source, message in (
        (tmp_path / "empty", "no image found"),
        (tmp_path / "missing", "no such file or folder"),
        (tmp_path / "empty" / "*.png", "no image found"),
    ):
        with pytest.raises(InputError, match=message):
            predict_paths(model, source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"map_format": "exr"},
        {"overlay_format": "gif"},
        {"outputs": ["map", "video"]},
        {"picture_size": 0},
        {"picture_size": "huge"},
        {"batch_size": 0},
        {"batch_size": 1.5},
        {"gallery_images": -1},
        {"threshold": float("nan")},
        {"threshold": float("inf")},
    ],
)
def test_options_with_no_such_value(tmp_path, model, options):
    words = {"outputs": "output", "gallery_images": "gallery"}
    (name,) = options
    with pytest.raises(ConfigError, match=words.get(name, name.replace("_", " "))):
        predict_paths(model, tmp_path, tmp_path / "out", **options)


@pytest.mark.parametrize(
    ("full_at", "listed"),
    [
        ("maps/b.tiff", ""),
        ("maps/b.png", "map"),
        ("masks/b.png", "map"),
        ("overlays/b.jpg", "mask"),
    ],
)
def test_a_full_disk_names_the_file_and_leaves_nothing_half_written(
    tmp_path, model, make_photo, save_image, monkeypatch, full_at, listed
):
    for name in "abcd":
        save_image(tmp_path / "in" / f"{name}.png", make_photo())
    from fastalign.engine import pictures

    real = pictures.atomic_write

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            self.file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    from contextlib import contextmanager

    @contextmanager
    def full(path, *args, **options):
        with real(path, *args, **options) as file:
            yield Full(file) if path == tmp_path / "out" / full_at else file

    monkeypatch.setattr(pictures, "atomic_write", full)
    with pytest.raises(InputError, match=full_at.replace(".", r"\.").replace("/", ".")):
        predict_paths(model, tmp_path / "in", tmp_path / "out")
    rows = table(tmp_path / "out" / "scores.csv")
    assert [row["path"] for row in rows] == ["a.png", "b.png", "c.png", "d.png"][: len(rows)]
    # Of every picture the table knows, and every one that it knows is there, whole.
    known = {row[kind] for row in rows for kind in ("map", "mask", "overlay")} - {""}
    known |= {name.replace(".tiff", ".png") for name in known}
    pictures = {name for name in files_below(tmp_path / "out") if "/" in name}
    assert pictures == known - {full_at}
    # What is known of the image stays: its score, and why its pictures are not there.
    row = rows[1]
    assert row["score"] != "" and row["overlay"] == "" and (not listed or row[listed] != "")
    assert "could not be written" in row["reason"] and "no space left" in row["reason"]
    document = json.loads((tmp_path / "out/predictions.json").read_text())
    assert "InputError while writing b.png" in document["warnings"][0]


def test_one_thread_and_many_write_the_same_bytes(
    tmp_path, model, make_photo, save_image, monkeypatch
):
    for number in range(7):
        save_image(tmp_path / "in" / f"{number}.png", make_photo(40, 50, (number, 2, 9, 9)))
    (tmp_path / "in" / "3.png").write_text("no image")
    found = []
    for name, room in (("one", Room(1)), ("many", Room(9, threads=4))):
        monkeypatch.setattr(Room, "of", lambda *_, room=room: room)
        out = tmp_path / name
        predict_paths(model, tmp_path / "in", out, batch_size=2, skip_bad=True, gallery_images=3)
        files = {file: (out / file).read_bytes() for file in files_below(out)}
        # Date and load are those of the moment.
        page = files.pop("report.html").decode()
        found.append((files, re.findall(r"base64,([A-Za-z0-9+/=]+)", page)))
    assert found[0] == found[1]
    assert len(found[0][0]) == 2 + 4 * 6 and len(found[0][1]) >= 3 * 4
