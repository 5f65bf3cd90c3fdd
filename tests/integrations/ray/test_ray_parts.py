"""Collections, plans, parts and resuming, without a running Ray."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from fastalign import artifact
from fastalign.engine.scoring import Thresholds
from fastalign.errors import ArtifactError, ConfigError, InputError

pa = pytest.importorskip(
    "pyarrow", reason="pyarrow is missing; install it with: pip install '.[ray]'"
)
pq = pytest.importorskip("pyarrow.parquet")

from fastalign.integrations.ray.attempts import DEATHS, Attempts  # noqa: E402
from fastalign.integrations.ray.collection import list_collection  # noqa: E402
from fastalign.integrations.ray.job import Options, default_part_size, digest  # noqa: E402
from fastalign.integrations.ray.job_folder import open_job  # noqa: E402
from fastalign.integrations.ray.parts import Counts, part_path  # noqa: E402
from fastalign.integrations.ray.worker import PartScorer  # noqa: E402


@pytest.fixture
def make_job(tmp_path, model_file):
    """A job over a source, as ``score_collection`` prepares it."""

    def make(
        source, out=None, *, model=None, batch_size=1, part_size=8, outputs=("map", "regions")
    ):
        model = model or model_file
        out = out or tmp_path / "out"
        inputs, _ = list_collection(source, outputs=out)
        fitted = artifact.load(model)
        return open_job(
            out,
            str(source),
            inputs,
            model_file=Path(model),
            model=digest(Path(model)),
            options=Options(outputs, "tiff", None, batch_size, part_size),
            limits=Thresholds(float(fitted.image_threshold), float(fitted.pixel_threshold)),
        )

    return make


def score_all(job):
    scorer = PartScorer(job, "cpu", 1)
    return sum((scorer.score(part) for part in range(job.parts)), Counts(0, 0, 0))


# Sources -----------------------------------------------------------------------------------------


def test_a_folder_a_list_and_parquet_name_the_same_images(listed, tmp_path):
    folder, text, names = listed
    pq.write_table(pa.table({"n": range(len(names)), "path": names}), folder / "images.parquet")
    by_folder, _ = list_collection(folder)
    by_text, _ = list_collection(text)
    by_parquet, _ = list_collection(folder / "images.parquet")
    assert len(by_folder) == len(names) == 20
    assert by_folder == by_text == by_parquet
    assert all(item.path.is_absolute() and item.path.is_file() for item in by_folder)


def test_a_list_keeps_its_order_its_names_and_absolute_paths(listed, tmp_path):
    folder, _, names = listed
    path = tmp_path / "own.lst"
    entries = [str(folder / names[3]), f"photos/{names[1]}", "photos/gone.png"]
    path.write_bytes(("\ufeff" + "\r\n".join(entries) + "\r\n\r\n").encode())
    inputs, notes = list_collection(path)
    assert [item.name for item in inputs] == entries and notes == []
    assert [item.path for item in inputs] == [
        folder / names[3],
        folder / names[1],
        folder / "gone.png",
    ]


def test_an_image_named_twice_is_taken_once(listed, tmp_path):
    folder, _, names = listed
    path = tmp_path / "own.txt"
    path.write_text(f"photos/{names[0]}\nphotos/../photos/{names[0]}\n{folder / names[0]}\n")
    inputs, notes = list_collection(path)
    assert [item.path for item in inputs] == [folder / names[0]]
    assert notes == ["2 entries name an image again and will be scored once"]


def test_files_that_are_no_images_are_told(listed):
    folder, _, names = listed
    (folder / "notes.doc").write_bytes(b"about the line")
    inputs, notes = list_collection(folder)
    assert len(inputs) == len(names)
    assert len(notes) == 1 and "notes.doc" in notes[0]


def test_a_folder_of_parquet_files_and_another_column(listed, tmp_path):
    folder, _, names = listed
    table = tmp_path / "table.parquet"
    table.mkdir()
    absolute = [str(folder / name) for name in names]
    pq.write_table(pa.table({"file": absolute[:7]}), table / "a.parquet")
    pq.write_table(pa.table({"file": absolute[7:]}), table / "b.parquet")
    inputs, _ = list_collection(table, path_column="file")
    assert [item.name for item in inputs] == absolute
    with pytest.raises(InputError, match="no column 'path', only: file.*--path-column"):
        list_collection(table)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.txt", b"\n \n", "the list is empty"),
        ("l.txt", b"\0\1", "no text file"),
        ("l.parquet", b"PAR1", "cannot be read as Parquet"),
    ],
)
def test_a_bad_list_is_an_error_that_names_it(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        list_collection(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [([1, 2], "holds int64, paths are strings"), (["a.png", None], "row 1 of column 'path'")],
)
def test_a_column_that_holds_no_paths(tmp_path, values, message):
    pq.write_table(pa.table({"path": values}), tmp_path / "l.parquet")
    with pytest.raises(InputError, match=message):
        list_collection(tmp_path / "l.parquet")


def test_deep_images_are_read_by_the_depth_that_is_given(make_job, photos, tmp_path, read_rows):
    pixels = np.asarray(Image.open(next((photos / "good").iterdir())).convert("RGB"))
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "flat.png")
    deep = (pixels.astype(np.uint16) << 4) | 15
    tifffile.imwrite(tmp_path / "in" / "deep.tif", deep, photometric="rgb")
    job = make_job(tmp_path / "in", outputs=())
    score_all(job)
    refused, flat = read_rows(job.out)
    # The model has seen 8 bits alone, and does not guess.
    assert refused["score"] is None and "--bit-depth 12" in refused["reason"]
    job = make_job(tmp_path / "in", tmp_path / "told", outputs=())
    score_all(replace(job, options=replace(job.options, bit_depth="12")))
    assert [row["score"] for row in read_rows(tmp_path / "told")] == [flat["score"]] * 2


# Parts -------------------------------------------------------------------------------------------


def test_parts_end_where_batches_end():
    for images in (1, 29, 1000, 16_000, 10**6):
        for batch in (1, 3, 32, 300):
            size = default_part_size(images, batch)
            assert size % batch == 0 and 16 <= size < 256 + batch


@pytest.mark.parametrize("batch_size", [1, 3])
def test_rows_are_what_predict_says(photos, make_job, model_file, tmp_path, read_rows, batch_size):
    from fastalign.engine import predict_paths

    job = make_job(photos, batch_size=batch_size, part_size=6)
    local = predict_paths(
        artifact.load(model_file),
        photos,
        tmp_path / "local",
        batch_size=batch_size,
        outputs=["map"],
    )
    counts = score_all(job)
    rows = read_rows(job.out)
    assert counts.images == len(rows) == len(local.images) == 20
    assert [row["index"] for row in rows] == list(range(20))
    for row, item in zip(rows, local.images, strict=True):
        assert (row["path"], row["score"], row["verdict"]) == (
            item.path,
            item.score,
            item.verdict.text,
        )
        assert (job.out / row["map"]).read_bytes() == item.map.read_bytes()
        assert row["model"] == digest(model_file) and (row["reason"] or "") == item.reason
    assert counts.anomalies == sum(item.label == "anomaly" for item in local.images)


def test_an_image_that_cannot_be_read_is_a_row(listed, make_job, read_rows, as_expected):
    folder, text, names = listed
    (folder / names[2]).write_bytes(b"")
    (folder / names[9]).unlink()
    job = make_job(text, part_size=4, outputs=())
    assert score_all(job) == Counts(
        20, 2, sum(r["verdict"] == "anomaly" for r in read_rows(job.out))
    )
    for index, row in enumerate(read_rows(job.out)):
        if index in (2, 9):
            assert row["score"] is None and row["verdict"] == "unsure"
            reason = "the file is empty" if index == 2 else "there is no such image"
            assert reason in row["reason"] and names[index] in row["reason"]
        else:
            as_expected(row)


def test_a_name_that_is_no_text(listed, make_job, read_rows):
    folder, _, names = listed
    odd = os.fsencode(folder) + b"/odd\xff.jpg"
    shutil.copy(folder / names[0], odd)
    job = make_job(os.fsdecode(odd), outputs=("map",))
    assert score_all(job).errors == 0
    (row,) = read_rows(job.out)
    assert row["path"] == "odd\\xff.jpg"
    assert (job.out / "maps" / "part-00000" / os.fsdecode(b"odd\xff.tiff")).is_file()


def test_a_finished_part_is_not_scored_again(photos, make_job):
    job = make_job(photos)
    PartScorer(job, "cpu", 1).score(1)
    before = part_path(job.out, 1).stat()
    scorer = PartScorer(job, "cpu", 1)
    scorer._model = None
    assert scorer.score(1).images == 8
    after = part_path(job.out, 1).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert list(job.finished()) == [1]


def test_a_part_whose_images_changed_is_scored_again(listed, make_job, read_rows):
    """Another photograph of the same name and size; uncompressed ones all have the same size."""
    folder, text, names = listed
    job = make_job(text)
    score_all(job)
    before = [part_path(job.out, part).stat().st_ino for part in range(3)]
    old = read_rows(job.out)
    content = (folder / names[9]).read_bytes()
    other = (folder / names[3]).read_bytes()[: len(content)]
    (folder / names[9]).write_bytes(other + bytes(len(content) - len(other)))
    assert (list(job.finished()), job.written()) == ([0, 2], [0, 1, 2])
    assert score_all(make_job(text)).images == 20
    after = [part_path(job.out, part).stat().st_ino for part in range(3)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    rows = read_rows(job.out)
    changed = [r["index"] for r, o in zip(rows, old, strict=True) if r["score"] != o["score"]]
    assert changed == [9] and list(job.finished()) == [0, 1, 2]


def test_a_half_written_part_does_not_count(photos, make_job):
    job = make_job(photos)
    folder = part_path(job.out, 0).parent
    folder.mkdir()
    mark = hashlib.sha256(b"part-00000.parquet").hexdigest()[:12]
    (folder / f".part-00000.parquet.{mark}.0.tmp").write_bytes(b"PAR1")
    assert job.finished() == {}
    assert score_all(job).images == 20
    assert sorted(p.name for p in folder.iterdir()) == [
        f"part-0000{part}.parquet" for part in range(3)
    ]


def test_a_damaged_part_is_refused_by_name(photos, make_job):
    job = make_job(photos)
    score_all(job)
    part_path(job.out, 1).write_bytes(b"PAR1PAR1")
    with pytest.raises(InputError, match=r"part-00001\.parquet.*remove this file"):
        job.finished()


def test_a_part_of_another_run_is_refused(photos, make_job, tmp_path):
    one, two = make_job(photos), make_job(photos, tmp_path / "two", outputs=())
    score_all(one)
    part_path(two.out, 0).parent.mkdir()
    shutil.copy(part_path(one.out, 0), part_path(two.out, 0))
    with pytest.raises(InputError, match="not written by this run"):
        two.finished()


# An output folder that is taken ------------------------------------------------------------------


def test_another_model_is_refused(photos, make_job, model_file, tmp_path):
    make_job(photos)
    other = artifact.load(model_file)
    other.set_threshold(float(other.image_threshold) + 1)
    artifact.save(other, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="scores of another model.*another output folder"):
        make_job(photos, model=tmp_path / "other.safetensors")


def test_other_images_are_refused(listed, make_job):
    folder, _, names = listed
    make_job(folder)
    (folder / names[0]).unlink()
    with pytest.raises(ConfigError, match="of other images .*another output folder"):
        make_job(folder)


def test_other_options_are_refused_by_name(photos, make_job):
    make_job(photos)
    with pytest.raises(ConfigError, match=r"options.batch_size \(interrupted run: 1, now: 4\)"):
        make_job(photos, batch_size=4)


def test_a_folder_of_something_else_is_refused(photos, make_job, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "scores.csv").write_text("path,score\n")
    with pytest.raises(ConfigError, match=r"other files \(scores.csv\).*new or empty"):
        make_job(photos)


def test_a_run_that_was_killed_before_its_first_part_begins_anew(photos, make_job):
    job = make_job(photos)
    (job.out / "job.json").unlink()
    (job.out / "plan.parquet").write_bytes(b"")
    assert score_all(make_job(photos)).images == 20


def test_a_model_that_changed_on_the_way_ends_the_run(photos, make_job, model_file, tmp_path):
    copy = tmp_path / "m.safetensors"
    shutil.copy(model_file, copy)
    job = make_job(photos, model=copy)
    copy.write_bytes(b"another")
    outcome = PartScorer(job, "cpu", 1)({"part": [0]})
    error = pickle.loads(outcome["failure"][0])
    assert isinstance(error, ArtifactError) and "another model" in str(error)
    assert not part_path(job.out, 0).exists()


# Images that kill workers ------------------------------------------------------------------------


def die_at(job, part, start, end, times):
    """What workers leave behind that died at ``start`` and had come through all before it."""
    for _ in range(times):
        attempts = Attempts(job.attempts_path(part))
        attempts.begin()
        for begin in range(0, start + 1, end - start):
            attempts.note(begin, begin + end - start)


@pytest.mark.parametrize("deaths", [DEATHS - 1, DEATHS])
def test_an_image_at_which_workers_die_is_given_up(
    photos, make_job, read_rows, as_expected, deaths
):
    job = make_job(photos)
    die_at(job, 1, 5, 6, deaths)
    counts = score_all(job)
    for row in read_rows(job.out):
        if row["index"] == 13 and deaths == DEATHS:
            assert row["score"] is None and "workers died at this image" in row["reason"]
        else:
            as_expected(row, job.out)
    assert counts.errors == (deaths == DEATHS)
    assert not job.attempts_path(1).exists()


def test_a_batch_at_which_workers_die_is_gone_through_one_by_one(photos, make_job, read_rows):
    job = make_job(photos, batch_size=4, outputs=())
    die_at(job, 0, 4, 8, DEATHS)
    die_at(job, 0, 5, 6, DEATHS)
    score_all(job)
    errors = [row["index"] for row in read_rows(job.out) if row["score"] is None]
    assert errors == [5]


def test_deaths_at_different_images_do_not_add_up(photos, make_job):
    job = make_job(photos)
    for index in range(2 * DEATHS):
        die_at(job, 0, index, index + 1, 1)
    assert score_all(job).errors == 0


def test_images_are_read_ahead_until_a_worker_dies(photos, make_job, monkeypatch):
    """One attempt leaves no notes, and what it has under way is as much as its threads can do."""
    from fastalign.integrations.ray import worker

    job, rooms = make_job(photos, outputs=()), []

    class Watched(worker.Pipeline):
        def __init__(self, *stages, **options):
            rooms.append(stages[4])
            super().__init__(*stages, **options)

    monkeypatch.setattr(worker, "Pipeline", Watched)
    scorer = PartScorer(job, "cpu", 3)
    scorer.score(0)
    assert [room.threads for room in rooms] == [3] and rooms[0].images > 3
    rooms.clear()
    die_at(job, 1, 0, 1, 1)
    scorer.score(1)
    assert len(rooms) == 8 and {room.images for room in rooms} == {1}
