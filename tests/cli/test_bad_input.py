"""Bad input through the command line: exit code, file and remedy named, nothing half-written."""

import csv
import errno
import json
import os
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image


def files_below(folder):
    if not folder.exists():
        return []
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def refused(outcome, code, *words):
    assert outcome.code == code, outcome.err
    assert "Traceback" not in outcome.err
    message = outcome.err.splitlines()[-1] if "error:" not in outcome.err else outcome.err
    for word in words:
        assert str(word) in message, message


@pytest.fixture
def fit(run, fit_options, tmp_path):
    def fit(category, *options):
        return run(
            "fit", category, "--out", tmp_path / "out" / "m.safetensors", *fit_options, *options
        )

    return fit


@pytest.fixture
def written(tmp_path):
    return lambda: files_below(tmp_path / "out")


def truncate(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def test_an_empty_folder(fit, run, fitted, tmp_path, written):
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(fit(empty), 3, empty, "empty")
    refused(run("evaluate", empty, "-m", fitted, "-o", tmp_path / "out"), 3, empty, "empty")
    refused(run("predict", empty, "-m", fitted, "-o", tmp_path / "out"), 3, empty, "no image")
    assert written() == []


def test_an_empty_folder_of_good_images(fit, ring, written):
    for path in (ring / "train" / "good").iterdir():
        path.unlink()
    refused(fit(ring), 3, ring / "train" / "good", "no images")
    assert written() == []


def test_a_missing_folder(fit, run, fitted, tmp_path, written):
    missing = tmp_path / "missing"
    refused(fit(missing), 3, missing, "check the path")
    refused(run("evaluate", missing, "-m", fitted, "-o", tmp_path / "out"), 3, missing)
    refused(run("predict", missing, "-m", fitted, "-o", tmp_path / "out"), 3, missing)
    assert written() == []


def test_a_pattern_in_the_place_of_a_folder(run, fitted, ring, tmp_path, written):
    """Replaced by the shell, and in quotes."""
    place = ring / "train" / "good"
    shell = sorted(place.iterdir())
    for command in (("fit", "-o", tmp_path / "out/m"), ("evaluate", "-m", fitted, "-o", tmp_path)):
        refused(run(*command, *shell), 2, f"{len(shell)} paths", f"such as {place}")
        refused(run(*command, f"{place}/*.png"), 3, "pattern", "give the folder")
    assert written() == []


def test_an_output_folder_that_is_a_file(run, fitted, ring, tmp_path):
    taken = tmp_path / "results"
    taken.write_text("mine")
    for command in ("predict", "evaluate"):
        outcome = run(command, ring, "-m", fitted, "-o", taken)
        refused(outcome, 3, f"{taken} is a file where a folder is needed")
    assert taken.read_text() == "mine"


def test_masks_among_the_photographs_stop_it(run, fit, fitted, ring, tmp_path, written):
    place = ring / "train" / "good"
    names = sorted(place.iterdir())[:2]
    for name in names:
        mask = np.zeros((40, 48), np.uint8)
        mask[5:9, 5:9] = 255
        Image.fromarray(mask).save(place / f"{name.stem}-defect.png")
    refused(fit(ring), 3, f"{names[0].stem}-defect.png", "look like masks", "ground_truth")
    evaluated = run("evaluate", ring, "-m", fitted, "-o", tmp_path / "out")
    refused(evaluated, 3, f"{names[0].stem}-defect.png", "look like masks")
    predicted = run("predict", place, "-m", fitted, "-o", tmp_path / "out")
    refused(predicted, 3, f"{names[0].stem}-defect.png", "look like masks")
    assert written() == []


def test_one_good_image_fits_without_a_threshold(fit, run, ring, tmp_path):
    for path in sorted((ring / "train" / "good").iterdir())[1:]:
        path.unlink()
    outcome = fit(ring)
    assert outcome.code == 0, outcome.err
    assert "warning:" in outcome.err and "threshold" in outcome.err
    model = tmp_path / "out" / "m.safetensors"
    outcome = run("predict", ring / "test", "-m", model, "-o", tmp_path / "p")
    assert outcome.code == 0 and "no threshold" in outcome.err
    document = json.loads((tmp_path / "p" / "predictions.json").read_text())
    assert document["image_threshold"] is None
    assert {item["verdict"] for item in document["images"]} == {"unsure"}
    assert "scored, without verdicts" in outcome.out
    assert all(item["score"] is not None for item in document["images"])
    assert not (tmp_path / "p" / "masks").exists()
    outcome = run("evaluate", ring, "-m", model, "-o", tmp_path / "e")
    assert outcome.code == 0
    results = json.loads((tmp_path / "e" / "results.json").read_text())
    assert results["image_auroc"] is not None and results["image_threshold"] is None


def test_images_of_different_sizes(fit, run, ring, make_part, tmp_path):
    rng = np.random.default_rng(0)
    for index, size in enumerate(((40, 48), (80, 60), (33, 97))):
        image = Image.fromarray(make_part(rng, size=size))
        image.save(ring / "train/good" / f"size{index}.png")
        image.save(ring / "test/good" / f"size{index}.png")
    assert fit(ring).code == 0
    model = tmp_path / "out" / "m.safetensors"
    for size in ("model", "native"):
        outcome = run("evaluate", ring, "-m", model, "-o", tmp_path / size, "--eval-size", size)
        assert outcome.code == 0, outcome.err
    assert run("predict", ring / "test", "-m", model, "-o", tmp_path / "p").code == 0
    assert Image.open(tmp_path / "p/maps/good/size2.tiff").size == (97, 33)


@pytest.mark.parametrize("kind", ["truncated", "text", "empty"])
def test_a_bad_training_image(fit, ring, make_part, kind, written):
    name = "bad.png" if kind == "text" else "bad.jpg"
    path = ring / "train" / "good" / name
    if kind == "truncated":
        Image.fromarray(make_part(np.random.default_rng(0))).save(path)
        truncate(path)
    else:
        path.write_text("notes" if kind == "text" else "")
    refused(fit(ring), 3, path, kind, "--skip-bad")
    assert written() == []
    outcome = fit(ring, "--skip-bad")
    assert outcome.code == 0, outcome.err
    assert f"left out {path}" in outcome.err and "1 of" in outcome.err
    assert written() == ["m.safetensors"]


@pytest.mark.parametrize("kind", ["truncated", "text"])
@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_bad_image_to_score(run, fitted, ring, make_part, tmp_path, command, kind, written):
    path = ring / "test" / "good" / ("bad.jpg" if kind == "truncated" else "bad.png")
    if kind == "truncated":
        Image.fromarray(make_part(np.random.default_rng(0))).save(path)
        truncate(path)
    else:
        path.write_text("notes")
    source = ring if command == "evaluate" else ring / "test"
    arguments = (command, source, "-m", fitted, "-o", tmp_path / "out")
    refused(run(*arguments), 3, path, kind, "--skip-bad")
    # An evaluation is whole or not there; a prediction keeps what it has, the bad file as a row.
    assert ("scores.csv" in written()) == (command == "predict")
    more = ("--skip-bad", "--overwrite") if command == "predict" else ("--skip-bad",)
    outcome = run(*arguments, *more)
    assert outcome.code == 0, outcome.err
    assert "warning:" in outcome.err and "1 of" in outcome.err
    with (tmp_path / "out" / "scores.csv").open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    (bad,) = (row for name, row in rows.items() if name.endswith(path.name))
    assert bad["verdict"] == "unsure" and kind in bad["reason"]


def test_a_16_bit_tiff_is_read(fit, run, ring, tmp_path):
    for folder in ("train/good", "test/good"):
        for path in sorted((ring / folder).iterdir()):
            grey = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 257
            Image.fromarray(grey).save(path.with_suffix(".tiff"))
            path.unlink()
    outcome = fit(ring)
    assert outcome.code == 0, outcome.err
    outcome = run("evaluate", ring, "-m", tmp_path / "out" / "m.safetensors", "-o", tmp_path / "e")
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "e" / "results.json").read_text())["image_auroc"] == 1.0


def test_a_missing_mask(run, fitted, ring, tmp_path, written):
    (ring / "ground_truth/dent/01_mask.png").unlink()
    arguments = ("evaluate", ring, "-m", fitted, "-o", tmp_path / "out")
    refused(run(*arguments), 3, ring / "test/dent/01.png", "no mask", "--skip-bad")
    assert written() == []
    outcome = run(*arguments, "--skip-bad")
    assert outcome.code == 0 and "1 test image left out of the pixel figures" in outcome.err
    assert json.loads((tmp_path / "out/results.json").read_text())["pixel_auroc"] is not None


def test_no_masks_at_all(run, fitted, ring, tmp_path):
    shutil.rmtree(ring / "ground_truth")
    outcome = run("evaluate", ring, "-m", fitted, "-o", tmp_path / "out")
    assert outcome.code == 0 and "mask" in outcome.err
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["aupro_30"] is None and "mask" in results["reasons"]["aupro_30"]
    assert results["image_auroc"] == 1.0


def test_a_mask_of_another_size(run, fitted, ring, tmp_path, written):
    path = ring / "ground_truth/dent/02_mask.png"
    Image.new("L", (20, 20), 255).save(path)
    arguments = ("evaluate", ring, "-m", fitted, "-o", tmp_path / "out")
    refused(run(*arguments), 3, path, "20 x 20", "48 x 40")
    assert written() == []
    outcome = run(*arguments, "--skip-bad")
    assert outcome.code == 0 and "left out of the pixel figures" in outcome.err


def test_no_anomalies(run, fitted, ring, tmp_path):
    shutil.rmtree(ring / "test" / "dent")
    outcome = run("evaluate", ring, "-m", fitted, "-o", tmp_path / "out")
    assert outcome.code == 0 and "no anomalous" in outcome.err
    results = json.loads((tmp_path / "out/results.json").read_text())
    for name in ("image_auroc", "image_f1max", "pixel_auroc", "aupro_30", "aupro_05"):
        assert results[name] is None and "no anomalous" in results["reasons"][name]
    assert "no anomalous" in outcome.out


def test_no_test_images(run, fitted, ring, tmp_path, written):
    shutil.rmtree(ring / "test")
    shutil.rmtree(ring / "ground_truth")
    refused(run("evaluate", ring, "-m", fitted, "-o", tmp_path / "out"), 3, ring, "no test images")
    assert written() == []


@pytest.mark.parametrize("command", ["fit", "evaluate", "predict"])
def test_an_output_below_a_file(run, fitted, whole_ring, tmp_path, fit_options, command):
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    out = blocker / "m.safetensors" if command == "fit" else blocker / "out"
    options = fit_options if command == "fit" else ("--model", fitted)
    refused(run(command, whole_ring, "--out", out, *options), 3, out, "choose another")
    assert blocker.read_text() == "in the way"


def test_a_model_file_that_is_a_folder(run, whole_ring, tmp_path, fit_options):
    refused(run("fit", whole_ring, "--out", tmp_path, *fit_options), 3, tmp_path, "folder")


@pytest.mark.parametrize("command", ["fit", "evaluate", "predict"])
def test_a_disk_that_fills_up(run, fitted, whole_ring, tmp_path, fit_options, command, monkeypatch):
    """Every model, figure and picture fails as on a full disk; a table finds room."""
    from fastalign.engine import pictures, texts
    from fastalign.storage import container

    def full(path):
        from fastalign.io import atomic_write

        class Full:
            def __init__(self, file):
                self.file = file

            def write(self, data):
                self.file.write(bytes(data)[: len(data) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        import contextlib

        @contextlib.contextmanager
        def writing():
            with atomic_write(path) as file:
                yield Full(file)

        return writing()

    modules = (container, pictures) if command == "predict" else (container, pictures, texts)
    for module in modules:
        monkeypatch.setattr(module, "atomic_write", full)
    out = tmp_path / "out" / ("m.safetensors" if command == "fit" else "")
    options = fit_options if command == "fit" else ("--model", fitted)
    source = whole_ring / "test" if command == "predict" else whole_ring
    refused(run(command, source, "--out", out, *options), 3, tmp_path / "out", "no space left")
    # A score whose pictures have no room is not lost.
    kept = ["predictions.json", "scores.csv"] if command == "predict" else []
    assert [name for name in files_below(tmp_path / "out") if "." in name] == kept


# In a mount namespace of its own, as `unshare -rm` makes it: disks that cannot be written or are
# small, then all commands.
EACH_COMMAND = """
import contextlib, ctypes, io, json, os, subprocess, sys
user, group = os.getuid(), os.getgid()
assert ctypes.CDLL(None).unshare(0x10020000) == 0  # CLONE_NEWUSER | CLONE_NEWNS
for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
    with open(f"/proc/self/{name}", "w") as file:
        file.write(text)
calls = json.loads(sys.argv[1])
for kind, disk, *_ in calls:
    command = ["mount", "-t", "tmpfs", "-o", f"size=16k,{kind}", "tmpfs", disk]
    subprocess.run(command, check=True, stdout=sys.stderr)
from fastalign.cli import app
outcomes = []
for _, disk, *arguments in calls:
    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        try:
            app(arguments, prog_name="fastalign")
            code = 0
        except SystemExit as end:
            code = end.code
    left = [os.path.join(place, name) for place, _, names in os.walk(disk) for name in names]
    outcomes.append((code, err.getvalue(), left))
print(json.dumps(outcomes))
"""


def can_mount() -> bool:
    """Whether this system lets a process mount file systems that it alone sees."""
    unshare = shutil.which("unshare")
    command = [unshare, "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return unshare is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def on_small_disks(python, fitted, whole_ring, fit_options, tmp_path_factory):
    """What each command says with its output on a disk of its own, and what it leaves there, by
    kind of disk and command."""
    if not can_mount():
        pytest.skip("this system does not let unshare mount a tmpfs")
    top = tmp_path_factory.mktemp("disks")
    calls = {}
    for kind in ("ro", "rw"):
        for command in ("evaluate", "fit", "predict"):
            disk = top / kind / command
            disk.mkdir(parents=True)
            out = disk / "m.safetensors" if command == "fit" else disk / "out"
            more = fit_options if command == "fit" else ("--model", fitted)
            source = whole_ring / "test" if command == "predict" else whole_ring
            call = (kind, disk, command, source, "--out", out, *more)
            calls[kind, command] = [str(item) for item in call]
    program = top / "program.py"
    program.write_text(EACH_COMMAND)
    result = python.run(program, json.dumps(list(calls.values())))
    assert result.returncode == 0, result.stderr
    outcomes = json.loads(result.stdout.splitlines()[-1])
    return {key: (calls[key][1], *said) for key, said in zip(calls, outcomes, strict=True)}


@pytest.mark.parametrize("command", ["evaluate", "fit", "predict"])
@pytest.mark.parametrize(("kind", "word"), [("ro", "read-only"), ("rw", "no space left")])
def test_a_real_read_only_and_a_real_full_disk(on_small_disks, kind, word, command):
    disk, code, err, left = on_small_disks[kind, command]
    assert code == 3, err
    assert word in err and disk in err
    assert "Traceback" not in err
    whole = (".tiff", ".png", ".jpg", "scores.csv") if command == "predict" else ()
    assert [name for name in left if not name.endswith(whole or "\0")] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--runtime", "onnx"), "runtime 'onnx': use one of auto, torch, openvino"),
        (
            ("--runtime", "openvino", "--memory-budget", "1GB"),
            "no pieces that would keep a --memory-budget",
        ),
    ],
)
def test_a_runtime_that_there_is_not(run, fitted, ring, tmp_path, written, options, words):
    for command in ("evaluate", "predict"):
        given = (ring, "-m", fitted, "-o", tmp_path / "out", *options)
        refused(run(command, *given), 2, words)
    assert written() == []


@pytest.mark.parametrize(
    ("precision", "words"),
    [("half", "use one of float32, tf32"), ("float16", "precision float16 on cpu")],
)
def test_a_precision_that_there_is_not(run, fitted, ring, tmp_path, written, precision, words):
    for command in ("evaluate", "predict"):
        given = (ring, "-m", fitted, "-o", tmp_path / "out", "--precision", precision)
        refused(run(command, *given), 2, words)
    assert written() == []
