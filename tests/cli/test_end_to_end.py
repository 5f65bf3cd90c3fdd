"""The commands on a tiny real fit."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from fastalign import ops
from fastalign.ops import plans

FIGURES = (
    "image_auroc",
    "image_ap",
    "image_f1max",
    "pixel_auroc",
    "pixel_ap",
    "aupro_30",
    "aupro_05",
    "ms_per_image",
    "peak_rss_mb",
)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_fit_leaves_the_model_and_nothing_else(fitted):
    from fastalign import artifact

    assert [entry.name for entry in fitted.parent.iterdir()] == ["ring.safetensors"]
    photographs = artifact.read_metadata(fitted)["extra"]["photographs"]
    assert photographs == {"typical": "48 x 40", "width": [48, 48], "aspect": [1.2, 1.2]}


def test_fit_twice_gives_the_same_file_byte_for_byte(
    run, fitted, whole_ring, tmp_path, fit_options
):
    again = tmp_path / "deep" / "er" / "again.safetensors"
    outcome = run("fit", whole_ring, "--out", again, *fit_options)
    assert outcome.code == 0, outcome.err
    assert again.read_bytes() == fitted.read_bytes()
    assert "fitted on" in outcome.out and str(again) in outcome.out
    other = tmp_path / "other.safetensors"
    assert run("fit", whole_ring, "--out", other, *fit_options, "--seed", 5).code == 0
    assert other.read_bytes() != fitted.read_bytes()


def test_a_fit_over_a_model_says_so_and_two_at_once_are_refused(
    run, fitted, whole_ring, tmp_path, fit_options
):
    from fastalign.locks import hold

    out = tmp_path / "m.safetensors"
    out.write_bytes(fitted.read_bytes())
    with hold(tmp_path / ".m.safetensors.fit", OSError):
        outcome = run("fit", whole_ring, "--out", out, *fit_options)
    assert outcome.code == 3 and "another fit or update writes this model (process" in outcome.err
    outcome = run("fit", tmp_path / "missing", "--out", out, *fit_options)
    assert outcome.code == 3 and "which this fit replaces in the end" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]
    assert out.read_bytes() == fitted.read_bytes()


def test_evaluate(run, fitted, whole_ring, tmp_path):
    outcome = run("evaluate", whole_ring, "--model", fitted, "--out", tmp_path / "results")
    assert outcome.code == 0, outcome.err
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    for name in FIGURES:
        assert isinstance(results[name], float), name
        assert name in outcome.out
    assert results["image_auroc"] == 1.0 and results["pixel_auroc"] > 0.8
    assert results["protocol"]["image_size"].startswith("32 x 32")
    assert results["protocol"]["seed"] == 0
    assert results["protocol"]["runtime"] == "torch (FASTALIGN_RUNTIME=torch)"
    assert len(rows(tmp_path / "results" / "scores.csv")) == 6
    assert str(tmp_path / "results" / "report.html") in outcome.out


def test_evaluate_at_native_size(run, fitted, whole_ring, tmp_path):
    out = tmp_path / "results"
    outcome = run("evaluate", whole_ring, "-m", fitted, "-o", out, "--eval-size", "native")
    assert outcome.code == 0, outcome.err
    protocol = json.loads((out / "results.json").read_text())["protocol"]
    assert protocol["evaluation_size"] == "each image's own"


def test_predict_agrees_with_evaluate(run, fitted, whole_ring, tmp_path):
    assert run("evaluate", whole_ring, "-m", fitted, "-o", tmp_path / "e").code == 0
    outcome = run(
        "predict", whole_ring / "test", "-m", fitted, "-o", tmp_path / "p", "--map-format", "npy"
    )
    assert outcome.code == 0, outcome.err
    predicted = rows(tmp_path / "p" / "scores.csv")
    counts, *lines = outcome.out.splitlines()
    assert counts.startswith("6 images: 3 anomalies, 3 good (threshold ")
    assert [line.split()[-1] for line in lines[:3]] == sorted(
        (f"dent/{index:02d}.png" for index in range(3)),
        key=lambda name: -next(float(row["score"]) for row in predicted if row["path"] == name),
    )
    assert all(" x threshold " in line for line in lines[:3])
    evaluated = {row["path"]: row for row in rows(tmp_path / "e" / "scores.csv")}
    assert len(predicted) == 6
    for row in predicted:
        other = evaluated[f"test/{row['path']}"]
        assert float(row["score"]) == pytest.approx(float(other["score"]), rel=1e-5)
        same = ("threshold", "relative", "verdict", "residual_after", "covered")
        assert list(row) == list(other) and [row[name] for name in same] == [
            other[name] for name in same
        ]
        scores = np.load(tmp_path / "p" / row["map"])
        assert scores.shape == (40, 48) and scores.dtype == np.float32
        assert Image.open(tmp_path / "p" / row["overlay"]).size == (48, 40)


def test_predict_one_file_and_a_glob(run, fitted, whole_ring, tmp_path):
    one = run("predict", whole_ring / "test/dent/00.png", "-m", fitted, "-o", tmp_path / "one")
    assert one.code == 0 and [row["path"] for row in rows(tmp_path / "one/scores.csv")] == [
        "00.png"
    ]
    pattern = f"{whole_ring}/test/*/0[01].png"
    many = run("predict", pattern, "-m", fitted, "-o", tmp_path / "many", "--save", "mask")
    assert many.code == 0
    assert [row["path"] for row in rows(tmp_path / "many/scores.csv")] == [
        "dent/00.png",
        "dent/01.png",
        "good/00.png",
        "good/01.png",
    ]
    assert sorted(p.name for p in (tmp_path / "many").iterdir()) == [
        "masks",
        "predictions.json",
        "report.html",
        "scores.csv",
    ]
    paths = sorted(whole_ring.glob("test/*/0[01].png"))
    unquoted = run("predict", *paths, "-m", fitted, "-o", tmp_path / "more", "--gallery", 0)
    assert unquoted.code == 0
    assert [row["path"] for row in rows(tmp_path / "more/scores.csv")] == [
        row["path"] for row in rows(tmp_path / "many/scores.csv")
    ]
    assert not (tmp_path / "more/report.html").exists()


@pytest.mark.parametrize("align", ["none", "ica", "fca", "fa"])
def test_every_alignment_fits(run, whole_ring, tmp_path, fit_options, align):
    model = tmp_path / "model.safetensors"
    outcome = run("fit", whole_ring, "--out", model, *fit_options, "--align", align)
    assert outcome.code == 0, outcome.err
    assert run("evaluate", whole_ring, "-m", model, "-o", tmp_path / "out").code == 0


def test_image_size_height_times_width(run, whole_ring, tmp_path, fit_options):
    model = tmp_path / "model.safetensors"
    outcome = run("fit", whole_ring, "--out", model, *fit_options, "--image-size", "32x64")
    assert outcome.code == 0, outcome.err
    assert run("evaluate", whole_ring, "-m", model, "-o", tmp_path / "out").code == 0
    protocol = json.loads((tmp_path / "out/results.json").read_text())["protocol"]
    assert protocol["image_size"].startswith("32 x 64")


@pytest.mark.parametrize(
    "options",
    [
        ("--image-size", "big"),
        ("--image-size", "0"),
        ("--layers", "one"),
        ("--device", "abacus"),
        ("--validation-fraction", "1"),
        ("--family", "teleport"),
        ("--threshold-quantile", "2"),
        ("--shrinkage", "-1"),
        ("--batch-size", "0"),
        ("--layout", "spiral"),
    ],
)
def test_options_with_no_such_value_leave_with_2(run, whole_ring, tmp_path, fit_options, options):
    outcome = run("fit", whole_ring, "--out", tmp_path / "m", *fit_options, *options)
    assert outcome.code == 2, outcome.err
    assert options[1] in outcome.err and "Traceback" not in outcome.err
    assert not list(tmp_path.iterdir())


def test_a_device_that_is_not_there_leaves_with_5(run, whole_ring, tmp_path, fit_options):
    import torch

    device = "mps" if torch.cuda.is_available() else "cuda"
    outcome = run("fit", whole_ring, "--out", tmp_path / "m", *fit_options, "--device", device)
    assert outcome.code == 5 and device in outcome.err and "--device cpu" in outcome.err


def test_a_forced_backend_that_cannot_run_leaves_with_5(
    run, whole_ring, fitted, tmp_path, monkeypatch
):
    monkeypatch.setenv("FASTALIGN_BACKEND", "cuda")
    outcome = run("evaluate", whole_ring, "-m", fitted, "-o", tmp_path / "out")
    assert outcome.code == 5 and "FASTALIGN_BACKEND" in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["FASTALIGN_BACKEND", "FASTALIGN_CPU_ISA"])
def test_an_environment_variable_that_names_nothing_leaves_with_2(run, tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "abacus")
    outcome = run("predict", tmp_path, "-m", tmp_path / "m", "-o", tmp_path / "out")
    assert outcome.code == 2 and f"{name}=abacus" in outcome.err


def test_a_launch_plan_that_there_is_not_leaves_with_2(run, tmp_path, monkeypatch):
    outcome = run("bench", "--part", "ops", "--plan", "warp_affine.triton: warp=4", "-o", tmp_path)
    assert outcome.code == 2 and "--plan" in outcome.err and "pixels, channels" in outcome.err
    monkeypatch.setenv("FASTALIGN_PLAN", "abacus")
    monkeypatch.setattr(plans, "_environment_read", False)
    outcome = run("predict", tmp_path, "-m", tmp_path / "m", "-o", tmp_path / "out")
    assert outcome.code == 2 and "FASTALIGN_PLAN" in outcome.err and "'abacus'" in outcome.err
    table = run("info", "--all")
    assert table.code == 0 and "FASTALIGN_PLAN: 'abacus' is no plan" in " ".join(table.out.split())


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_bad_model_file_leaves_with_4(run, whole_ring, fitted, tmp_path, command):
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(fitted.read_bytes()[:-100])
    text = tmp_path / "text.safetensors"
    text.write_text("a text that is long enough to be taken for a header, or so one thinks")
    for path, word in (
        (truncated, "truncated"),
        (text, "not a fastalign model"),
        (tmp_path / "missing", "no such file"),
    ):
        outcome = run(command, whole_ring, "-m", path, "-o", tmp_path / "out")
        assert outcome.code == 4
        assert str(path) in outcome.err and word in outcome.err
        assert not (tmp_path / "out").exists()


def test_info_in_short_in_full_and_as_json(run):
    short = run("info")
    assert short.code == 0 and len(short.out.splitlines()) <= 20
    for word in ("torch", "Device cpu", "Fast CPU kernels: o", "Extra ray", "wait", "--all"):
        assert word in short.out
    assert "warp_affine" not in short.out
    table = run("info", "--all")
    words = ("torch", "warp_affine", "reference", "runs", "FASTALIGN_BACKEND", "Launch plans")
    for word in words:
        assert word in table.out
    with ops.forced_plan("warp_affine.triton: warps=2"):
        found = json.loads(run("info", "--json").out)
    assert found["plans"]["forced"] == {"warp_affine.triton": {"warps": "2"}}
    assert found["plans"]["fields"]["warp_affine.triton"]["warps"] == ["1", "2", "4", "8", "16"]
    assert found["waiting"].split()[0] in ("sleep", "spin")
    extras = {"anomalib", "export", "heif", "openvino", "ray", "serve", "watch"}
    assert set(found["extras"]) == extras
    assert found["backends"]["cpu"]["mahalanobis"]["reference"] is None
    assert set(found["backends"]["cpu"]["warp_affine"]) == {"reference", "cpu", "cuda", "triton"}
    assert isinstance(found["backends"]["cpu"]["mahalanobis"]["cuda"], str)
    assert found["versions"]["torch"] and found["extension"]["loaded"] in (True, False)


def test_demo_on_other_data(run, whole_ring, tmp_path, monkeypatch):
    from fastalign.engine import fit

    small = {"image_size": (32, 32), "channels": 8, "family": "translation"}
    build_config, asked = fit.build_config, []

    def build(**options):
        asked.append(options)
        return build_config(**options, **small)

    monkeypatch.setattr(fit, "build_config", build)
    out = tmp_path / "demo"
    outcome = run("demo", "--data", whole_ring, "--out", out, "--epochs", 1)
    assert outcome.code == 0, outcome.err
    assert asked == [{"epochs": 1}]
    assert {path.name for path in out.iterdir()} == {
        "model.safetensors",
        "report.html",
        "results.json",
        "scores.csv",
    }
    assert "image_auroc" in outcome.out and str(out / "report.html") in outcome.out


def test_the_shipped_data_are_found():
    from fastalign.engine.demo import demo_category

    with demo_category() as folder:
        assert list((folder / "train" / "good").iterdir())
        assert (folder / "test").is_dir()


def test_output_to_a_closed_pipe_is_no_fault(python, tmp_path):
    """`fastalign info | head -1` ends quietly."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os\n"
        "reader, writer = os.pipe()\n"
        "os.close(reader)\n"
        "os.dup2(writer, 1)\n"
        "from fastalign.cli import main\n"
        "main()\n"
    )
    done = python.run(program, "info")
    assert "Traceback" not in done.stderr and done.stdout == ""


def test_any_option_of_the_model_can_be_set(run, whole_ring, tmp_path, fit_options):
    from fastalign import artifact

    model = tmp_path / "m.safetensors"
    options = ("--set", "sigma=1.5", "--set", "skip=false", "--set", "storage=bfloat16")
    outcome = run("fit", whole_ring, "--out", model, *fit_options, *options)
    assert outcome.code == 0, outcome.err
    config = artifact.read_metadata(model)["config"]
    assert (config["sigma"], config["skip"], config["storage"]) == (1.5, False, "bfloat16")


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        ("sigma", "NAME=VALUE"),
        ("no_such=1", "no_such"),
        ("epochs=3", "--epochs"),
        ("sigma=wide", "sigma"),
    ],
)
def test_a_setting_that_makes_no_sense_leaves_with_2(
    run, whole_ring, tmp_path, fit_options, entry, word
):
    outcome = run("fit", whole_ring, "--out", tmp_path / "m", *fit_options, "--set", entry)
    assert outcome.code == 2, outcome.err
    assert word in outcome.err and "Traceback" not in outcome.err
    assert not list(tmp_path.iterdir())
