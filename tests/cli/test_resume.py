"""Interrupted fits: SIGKILL and Ctrl-C, then --resume."""

import shutil
import signal
import sys

import pytest
from PIL import Image

EPOCHS = ("--epochs", "3")
# What lies at the place of the model when the fit that is killed begins.
OLDER = b"an older model"

# The process ends itself right after its second checkpoint, as an interruption would.
END_AFTER_SECOND_CHECKPOINT = """
import os, signal
from fastalign.storage import checkpoint
# A shell starts its background jobs with Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
write, count = checkpoint.save_checkpoint, [0]
def save_checkpoint(*arguments, **options):
    write(*arguments, **options)
    count[0] += 1
    if count[0] == 2:
        os.kill(os.getpid(), signal.{signal})
checkpoint.save_checkpoint = save_checkpoint
from fastalign.cli import main
main()
"""


@pytest.fixture(scope="module")
def unbroken(run, whole_ring, fit_options, tmp_path_factory):
    path = tmp_path_factory.mktemp("unbroken") / "m.safetensors"
    outcome = run("fit", whole_ring, "--out", path, *fit_options, *EPOCHS, "--threads", 1)
    assert outcome.code == 0, outcome.err
    return path.read_bytes()


@pytest.fixture(scope="module")
def runs():
    """Folders and processes of interrupted fits, by category and signal: most tests only read."""
    return {}


@pytest.fixture
def interrupted(python, whole_ring, fit_options, tmp_path, tmp_path_factory, runs):
    """A fit ended by a signal after its second checkpoint: ``(arguments, model path, process)``."""

    def interrupt(name, category=whole_ring):
        def arguments(folder):
            out = folder / "m.safetensors"
            return ("fit", category, "--out", out, *fit_options, *EPOCHS, "--threads", 1)

        if (category, name) not in runs:
            folder = tmp_path_factory.mktemp("interrupted")
            if name == "SIGKILL":
                (folder / "m.safetensors").write_bytes(OLDER)
            program = tmp_path_factory.mktemp("program") / "program.py"
            program.write_text(END_AFTER_SECOND_CHECKPOINT.format(signal=name))
            runs[category, name] = folder, python.run(program, *arguments(folder))
        folder, process = runs[category, name]
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
        return arguments(tmp_path), tmp_path / "m.safetensors", process

    return interrupt


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_killed_and_resumed_gives_the_file_of_an_unbroken_run(run, interrupted, unbroken):
    arguments, model, process = interrupted("SIGKILL")
    assert process.returncode == -signal.SIGKILL
    # The mark of the killed process holds nobody up.
    assert names(model.parent) == [".m.safetensors.fit", "m.safetensors", "m.safetensors.ckpt"]
    assert model.read_bytes() == OLDER
    outcome = run(*arguments, "--resume")
    assert outcome.code == 0, outcome.err
    assert names(model.parent) == ["m.safetensors"]
    assert model.read_bytes() == unbroken


def test_ctrl_c_says_how_to_go_on(run, interrupted, unbroken):
    arguments, model, process = interrupted("SIGINT")
    assert process.returncode == 130, process.stderr
    assert "Traceback" not in process.stderr
    assert "--resume" in process.stderr
    assert process.args[process.args.index("--out") + 1] in process.stderr
    assert names(model.parent) == ["m.safetensors.ckpt"]
    assert run(*arguments, "--resume").code == 0
    assert model.read_bytes() == unbroken


def test_other_settings_are_refused_by_name(run, interrupted):
    arguments, model, _ = interrupted("SIGINT")
    before = (model.parent / "m.safetensors.ckpt").read_bytes()
    outcome = run(*arguments, "--resume", "--seed", 9, "--epochs", 4)
    assert outcome.code == 2
    assert "seed (interrupted run: 0, now: 9)" in outcome.err
    assert "epochs (interrupted run: 3, now: 4)" in outcome.err
    assert "without --resume" in outcome.err
    assert (model.parent / "m.safetensors.ckpt").read_bytes() == before


def test_other_images_of_the_same_names_and_sizes_are_refused(run, interrupted, ring):
    for photograph in (ring / "train/good").glob("*.png"):
        with Image.open(photograph) as image:
            image.save(photograph.with_suffix(".bmp"))
        photograph.unlink()
    arguments, _, _ = interrupted("SIGINT", ring)
    photograph = ring / "train/good/00.bmp"
    content = bytearray(photograph.read_bytes())
    content[len(content) // 2] ^= 1
    photograph.write_bytes(content)
    outcome = run(*arguments, "--resume")
    assert outcome.code == 2 and "training images" in outcome.err


def test_a_damaged_checkpoint_is_refused(run, interrupted):
    arguments, model, _ = interrupted("SIGINT")
    checkpoint = model.parent / "m.safetensors.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-40])
    outcome = run(*arguments, "--resume")
    assert outcome.code == 4
    assert str(checkpoint) in outcome.err and "truncated" in outcome.err


def test_without_resume_it_starts_again(run, interrupted, unbroken):
    arguments, model, _ = interrupted("SIGINT")
    outcome = run(*arguments)
    assert outcome.code == 0, outcome.err
    assert model.read_bytes() == unbroken and names(model.parent) == ["m.safetensors"]


def test_resume_with_nothing_to_resume_starts_from_the_beginning(
    run, whole_ring, fit_options, tmp_path, unbroken
):
    model = tmp_path / "m.safetensors"
    outcome = run(
        "fit", whole_ring, "--out", model, *fit_options, *EPOCHS, "--threads", 1, "--resume"
    )
    assert outcome.code == 0, outcome.err
    assert model.read_bytes() == unbroken
