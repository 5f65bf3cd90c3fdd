"""One run, one folder: nobody's tables are lost, and no picture stays beside a foreign table."""

import csv
import os
import subprocess
import sys
import textwrap

import pytest

from fastalign.engine.predict import predict_paths
from fastalign.engine.runfolder import MARKER, check_free, reserve
from fastalign.engine.table import SCORES, Row, ScoresTable
from fastalign.errors import ConfigError, InputError
from fastalign.verdict import Verdict


def files_below(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def score(tmp_path, model, make_photo, save_image):
    """Scores images of these names into one folder."""

    def run(*names, **options):
        source = tmp_path / "-".join(names)
        for name in names:
            save_image(source / f"{name}.png", make_photo())
        return predict_paths(model, source, tmp_path / "out", gallery_images=1, **options)

    return run


def test_results_of_an_earlier_run_are_neither_overwritten_nor_mixed_in(score, tmp_path):
    score("a", "b")
    before = {
        name: (tmp_path / "out" / name).read_bytes() for name in files_below(tmp_path / "out")
    }
    with pytest.raises(ConfigError, match=r"out: holds the scores of 2 images.*--overwrite"):
        score("c")
    after = {name: (tmp_path / "out" / name).read_bytes() for name in files_below(tmp_path / "out")}
    assert after == before


def test_overwriting_removes_what_the_earlier_table_lists_and_nothing_else(score, tmp_path):
    out = tmp_path / "out"
    score("a", "b")
    (out / "maps" / "own.tiff").write_bytes(b"of the user")
    (out / "notes.txt").write_text("of the user")
    result = score("c", overwrite=True)
    assert files_below(out) == [
        "maps/c.png",
        "maps/c.tiff",
        "maps/own.tiff",
        "masks/c.png",
        "notes.txt",
        "overlays/c.jpg",
        "predictions.json",
        "report.html",
        "scores.csv",
    ]
    assert any("1 file in" in text and "stay" in text for text in result.warnings)


def test_a_table_that_names_files_elsewhere_removes_none_of_them(score, tmp_path):
    out = tmp_path / "out"
    score("a")
    for name in ("victim.png", "out/own.png"):
        (tmp_path / name).write_bytes(b"of the user")
    with (out / SCORES).open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ("../victim.png", str(tmp_path / "victim.png"), "own.png", "masks/../own.png"):
        rows[0]["map"] = rows[0]["mask"] = name
        with (out / SCORES).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        score("c", overwrite=True)
        assert (tmp_path / "victim.png").exists() and (out / "own.png").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_foreign_table_is_never_overwritten(score, tmp_path, overwrite):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / SCORES).write_text("name,marks\nann,1\n")
    with pytest.raises(ConfigError, match="of another format"):
        score("a", overwrite=overwrite)
    assert (tmp_path / "out" / SCORES).read_text() == "name,marks\nann,1\n"
    assert files_below(tmp_path / "out") == [SCORES]


@pytest.mark.parametrize("name", ["maps/x.tiff", "overlays/deep/x.png", "results.json", "job.json"])
def test_what_others_have_left_is_told(score, tmp_path, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    with pytest.raises(ConfigError, match="--overwrite"):
        score("a")


def test_two_runs_at_once_are_refused_and_a_killed_one_is_not(score, tmp_path):
    out = tmp_path / "out"
    with reserve(out):
        for overwrite in (False, True):
            with pytest.raises(InputError, match=rf"another run writes.*process {os.getpid()} on"):
                score("a", overwrite=overwrite)
        with pytest.raises(InputError, match="another run writes"):
            check_free(out, overwrite=True)
    assert not out.exists()
    code = f"""
        import os, signal
        from pathlib import Path
        from fastalign.locks import hold
        with hold(Path({str(out / MARKER)!r}), OSError):
            os.kill(os.getpid(), signal.SIGKILL)
        """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert files_below(out) == [MARKER]
    score("a")
    assert MARKER not in files_below(out)


def row(name, **values):
    return Row(name, 1.5, 0.5, Verdict.ANOMALY, **values)


def test_the_table_holds_whole_rows_at_any_moment(tmp_path):
    path = tmp_path / SCORES
    with ScoresTable(path) as table:
        for count, name in enumerate(("a,b.png", 'quo"te.png', "new\nline.png", "b\udcff.png"), 1):
            table.add(row(name))
            with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
                rows = list(csv.DictReader(file))
            assert len(rows) == count and rows[-1]["path"] == name
            assert None not in rows[-1].values()
    assert rows[0]["relative"] == "3.0" and rows[0]["verdict"] == "anomaly"
    with ScoresTable(tmp_path / "empty.csv"):
        pass
    assert files_below(tmp_path) == [SCORES]


def test_a_disk_that_fills_up_in_the_middle_of_a_row(tmp_path, monkeypatch):
    path = tmp_path / SCORES
    real = os.write
    with ScoresTable(path) as table:
        table.add(row("a"))
        whole = path.read_bytes()
        written = []

        def half(descriptor, data):
            if written:
                raise OSError(28, "No space left on device")
            written.append(real(descriptor, data[: len(data) // 2]))
            return written[0]

        monkeypatch.setattr(os, "write", half)
        with pytest.raises(InputError, match=r"scores\.csv: cannot be written: no space left"):
            table.add(row("b"))
        monkeypatch.undo()
    assert path.read_bytes() == whole
