"""12-bit samples in 16-bit files, from the command line: as the same photographs of 8 bits."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import tifffile
from PIL import Image

from fastalign import FYD


def deepen(path, shift):
    """The file as 16-bit TIFF, its 8 bits in bits ``shift`` and up, and noise below them."""
    values = np.asarray(Image.open(path)).astype(np.uint16) << shift
    values |= np.random.default_rng(0).integers(0, 1 << shift, values.shape).astype(np.uint16)
    tifffile.imwrite(path.with_suffix(".tif"), values, photometric="rgb")
    path.unlink()


def scores(run, source, model, out, *options):
    outcome = run("predict", source, "--model", model, "--out", out, "--save", "map", *options)
    with (out / "scores.csv").open(newline="") if outcome.code == 0 else open("/dev/null") as file:
        return outcome, [row["score"] for row in csv.DictReader(file)]


@pytest.fixture
def deep_test(tmp_path, whole_ring):
    def write(name, shift):
        folder = tmp_path / name
        folder.mkdir()
        for path in sorted((whole_ring / "test" / "dent").glob("*.png")):
            (folder / path.name).write_bytes(path.read_bytes())
            deepen(folder / path.name, shift)
        return folder

    return write


def test_from_fit_to_predict(run, ring, fitted, fit_options, deep_test, tmp_path):
    for path in (ring / "train" / "good").glob("*.png"):
        deepen(path, 4)
    model = tmp_path / "deep.safetensors"
    outcome = run("fit", ring, "--out", model, *fit_options)
    assert outcome.code == 0, outcome.err
    assert "16-bit files are read as 12 bits of 16, right-aligned (largest value" in outcome.out
    assert FYD.load(model).depth.bits == 12
    twin = FYD.load(fitted)
    assert twin.depth.bits is None
    assert FYD.load(model).image_threshold == twin.image_threshold
    _, plain = scores(run, ring / "test" / "dent", fitted, tmp_path / "a")
    _, deep = scores(run, deep_test("twelve", 4), model, tmp_path / "b")
    assert deep == plain and len(plain) == 3
    fourteen = deep_test("fourteen", 6)
    outcome, _ = scores(run, fourteen, model, tmp_path / "c")
    assert outcome.code != 0 and "00.tif: uses values up to" in outcome.err
    assert "--bit-depth 14" in outcome.err
    _, told = scores(run, fourteen, model, tmp_path / "d", "--bit-depth", "14")
    assert told == plain
    assert (
        run("predict", fourteen, "-m", model, "-o", tmp_path / "e", "--bit-depth", "9x").code == 2
    )
