import csv
import errno
import json
import os

import numpy as np
import pytest
from PIL import Image

from fastalign.engine.predict import find_inputs, predict_paths
from fastalign.errors import ConfigError, InputError


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
    assert [item.label for item in result.images] == ["good", "anomaly"]
    for name, size in (("a", (40, 60)), ("b", (90, 50))):
        scores = np.asarray(Image.open(tmp_path / "out/maps" / f"{name}.tiff"))
        mask = np.asarray(Image.open(tmp_path / "out/masks" / f"{name}.png"))
        overlay = np.asarray(Image.open(tmp_path / "out/overlays" / f"{name}.png"))
        assert scores.dtype == np.float32 and scores.shape == size
        assert mask.dtype == np.uint8 and mask.shape == size
        assert overlay.dtype == np.uint8 and overlay.shape == (*size, 3)
        assert set(np.unique(mask)) <= {0, 255}
        assert ((mask == 255) == (scores > 0.25)).all()
    mask = np.asarray(Image.open(tmp_path / "out/masks/b.png")) > 0
    rows, columns = np.nonzero(mask)
    assert abs(rows.mean() - 34.5) < 2 and abs(columns.mean() - 14.5) < 2
    assert files_below(tmp_path / "out") == [
        "maps/a.tiff",
        "maps/b.tiff",
        "masks/a.png",
        "masks/b.png",
        "overlays/a.png",
        "overlays/b.png",
        "predictions.json",
        "scores.csv",
    ]


def test_tables_say_what_was_written(tmp_path, model, make_photo, save_image):
    save_image(tmp_path / "in" / "sub" / "ä,b.png", make_photo(40, 60, (5, 5, 9, 9)))
    result = predict_paths(model, tmp_path / "in", tmp_path / "out", map_format="npy")
    (row,) = table(tmp_path / "out" / "scores.csv")
    document = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert row["path"] == "sub/ä,b.png" and row["label"] == "anomaly"
    assert float(row["score"]) == document["images"][0]["score"] == result.images[0].score
    assert document["image_threshold"] == 0.25
    for name in ("map", "mask", "overlay"):
        assert (tmp_path / "out" / row[name]).is_file()
    scores = np.load(tmp_path / "out" / row["map"], allow_pickle=False)
    assert scores.dtype == np.float32 and scores.shape == (40, 60)


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


def test_names_that_differ_by_case_do_not_meet_on_a_file_system_without_case(tmp_path, save_image):
    for name in ("A.png", "a.png", "a.PNG"):
        save_image(tmp_path / name, np.zeros((4, 4, 3), np.uint8))
    stems = [str(item.stem).casefold() for item in find_inputs(tmp_path)]
    assert len(set(stems)) == len(list(tmp_path.iterdir()))


def test_file_glob_and_folder(tmp_path, save_image):
    for name in ("x/1.png", "x/y/2.jpg", "x/y/3.png", "x/notes.txt"):
        if name.endswith("txt"):
            (tmp_path / name).write_text("no image")
        else:
            save_image(tmp_path / name, np.zeros((4, 4, 3), np.uint8))

    def names(source):
        return [item.name for item in find_inputs(source)]

    assert names(tmp_path / "x") == ["1.png", "y/2.jpg", "y/3.png"]
    assert names(tmp_path / "x" / "y" / "2.jpg") == ["2.jpg"]
    assert names(f"{tmp_path}/x/*") == ["1.png"]
    assert names(f"{tmp_path}/x/**/*.png") == ["1.png", "y/3.png"]
    assert names(f"{tmp_path}/*/y/[0-2].jpg") == ["x/y/2.jpg"]


def test_a_name_with_wildcard_characters_is_taken_as_it_is(tmp_path, save_image):
    save_image(tmp_path / "a[1].png", np.zeros((4, 4, 3), np.uint8))
    assert [item.name for item in find_inputs(tmp_path / "a[1].png")] == ["a[1].png"]


def test_outputs_of_an_earlier_run_are_no_inputs(tmp_path, model, make_photo, save_image):
    save_image(tmp_path / "a.png", make_photo())
    first = predict_paths(model, tmp_path, tmp_path / "out")
    again = predict_paths(model, tmp_path, tmp_path / "out")
    assert len(first.images) == len(again.images) == 1


def test_batches_give_the_same_scores(tmp_path, model, make_photo, save_image):
    for i in range(5):
        save_image(tmp_path / "in" / f"{i}.png", make_photo(40 + i, 50, (i, i, 9, 9)))
    one = predict_paths(model, tmp_path / "in", tmp_path / "1")
    three = predict_paths(model, tmp_path / "in", tmp_path / "3", batch_size=3)
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
    assert result.images[0].label is None and result.images[0].mask is None
    assert any("no threshold" in message for message in result.warnings)
    (row,) = table(tmp_path / "out" / "scores.csv")
    assert row["label"] == "" and row["mask"] == "" and row["score"]
    assert json.loads((tmp_path / "out/predictions.json").read_text())["image_threshold"] is None
    given = predict_paths(
        make_model(float("nan")), tmp_path / "in", tmp_path / "out", threshold=-9.0
    )
    assert given.images[0].label == "anomaly"


def test_bad_images(tmp_path, model, make_photo, save_image):
    save_image(tmp_path / "in" / "good.png", make_photo())
    bad = tmp_path / "in" / "sub" / "text.png"
    bad.parent.mkdir()
    bad.write_text("not an image")
    with pytest.raises(InputError, match=r"text\.png"):
        predict_paths(model, tmp_path / "in", tmp_path / "out")
    result = predict_paths(model, tmp_path / "in", tmp_path / "out", skip_bad=True)
    assert [item.path for item in result.images] == ["good.png"]
    assert [item.path for item in result.skipped] == ["sub/text.png"]
    document = json.loads((tmp_path / "out/predictions.json").read_text())
    assert document["skipped"][0]["path"] == "sub/text.png"
    with pytest.raises(InputError, match=r"none of the 1 images.*text\.png"):
        predict_paths(model, bad, tmp_path / "out", skip_bad=True)


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
    "options", [{"map_format": "exr"}, {"outputs": ["map", "video"]}, {"batch_size": 0}]
)
def test_options_with_no_such_value(tmp_path, model, options):
    with pytest.raises(ConfigError):
        predict_paths(model, tmp_path, tmp_path / "out", **options)


def test_a_full_disk_names_the_file_and_leaves_nothing_half_written(
    tmp_path, model, make_photo, save_image, monkeypatch
):
    save_image(tmp_path / "in" / "a.png", make_photo())
    from fastalign.engine import predict

    real = predict.atomic_write

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
            yield Full(file) if path.name == "a.png" else file

    monkeypatch.setattr(predict, "atomic_write", full)
    with pytest.raises(InputError, match=r"masks.a\.png"):
        predict_paths(model, tmp_path / "in", tmp_path / "out")
    assert files_below(tmp_path / "out") == ["maps/a.tiff"]
