"""The command under torchrun: the same model, restarts, and images that cannot be read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastalign import FYD
from fastalign.data import ImageDataset, collect, open_category
from fastalign.engine import fit_category
from fastalign.models.config import FYDConfig

# Of poses, translations alone: a search for turns is most of the time of so small a fit.
OPTIONS = {"image_size": (32, 32), "channels": 8, "epochs": 3, "batch_size": 4}
OPTIONS["family"] = "translation"
FLAGS = ["--image-size", "32", "--channels", "8", "--epochs", "3", "--batch-size", "4"]
FLAGS += ["--validation-fraction", "0.2", "--threads", "1", "--family", "translation"]

# The second process ends itself once the second checkpoint is there, the first time it runs.
KILLED = """
import os, signal, time
if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == ("1", "1"):
    # Late, so that the first process would find the address of the one that was killed.
    time.sleep(2)
from fastalign.models.fitting.training import Trainer
epoch = Trainer.epoch
def train(self, index):
    if (index, os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == (2, "1", "0"):
        os.kill(os.getpid(), signal.SIGKILL)
    process, run = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
    os.write(1, f"epoch {index} of process {process} in run {run}\\n".encode())
    return epoch(self, index)
Trainer.epoch = train
from fastalign.cli import main
main()
"""


# Prints how many refer to the group in the end: the variable and the argument, if all is well.
GROUP = """
import sys
import torch.distributed as dist
from fastalign.distributed.launch import launched
with launched():
    import timm
    group = dist.group.WORLD
print(sys.getrefcount(group))
"""


def write_category(root: Path, number: int) -> Path:
    """Bars on grey, shifted a little."""
    rng = np.random.default_rng(3)
    (root / "good").mkdir(parents=True)
    for index in range(number):
        image = np.full((40, 48), 80.0)
        row, column = rng.integers(14, 22), rng.integers(10, 14)
        image[row : row + 6, column : column + 24] = 210
        image[8:32, column : column + 5] = 160
        image = (image + rng.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(np.repeat(image[..., None], 3, 2)).save(root / "good" / f"{index:02d}.png")
    return root


@pytest.fixture(scope="module")
def category(tmp_path_factory) -> Path:
    return write_category(tmp_path_factory.mktemp("data") / "bars", 11)


# What torchrun does, by its own functions, whose processes are forks of one that has imported what
# they need: ``RESTARTS PROGRAM ARGUMENT...``.
TORCHRUN = """
import runpy, sys, uuid
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

def work(*command):
    sys.argv = list(command)
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise

config = LaunchConfig(
    min_nodes=1, max_nodes=1, nproc_per_node=2, run_id=str(uuid.uuid4()), rdzv_backend="c10d",
    rdzv_endpoint="localhost:0", max_restarts=int(sys.argv[1]), start_method="fork",
)
elastic_launch(config, work)(*sys.argv[2:])
"""
COMMAND = "from fastalign.cli import main\nmain()\n"


@pytest.fixture(scope="module")
def torchrun(python, tmp_path_factory):
    """``torchrun(program, *arguments, restarts=0)``: the program in two processes."""
    folder = tmp_path_factory.mktemp("programs")
    launcher, file = folder / "torchrun.py", folder / "program.py"
    launcher.write_text(TORCHRUN)

    def run(program: str, *arguments: object, restarts: int = 0):
        file.write_text(program)
        return python.run(launcher, restarts, file, *arguments, timeout=120)

    return run


@pytest.fixture(scope="module")
def fitted(torchrun, category, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """The model of an unbroken run on two processes, and the run."""
    out = tmp_path_factory.mktemp("two") / "m.safetensors"
    done = torchrun(COMMAND, "fit", category, "--out", out, *FLAGS)
    assert done.returncode == 0, done.stderr
    return out, done


def test_two_processes_fit_the_model_of_one(fitted, category, tmp_path):
    out, done = fitted
    # Only the first process speaks and writes.
    assert done.stdout.count("fitted on 9 good images (2 more for the thresholds)") == 1
    assert sorted(path.name for path in out.parent.iterdir()) == ["m.safetensors"]
    alone = fit_category(
        category, tmp_path / "one", config=FYDConfig(**OPTIONS), validation_fraction=0.2
    )
    one, two = FYD.load(tmp_path / "one"), FYD.load(out)
    first, second = one.extra_metadata(), two.extra_metadata()
    assert first["alignment"]["summary"] == second["alignment"]["summary"]
    assert first["images"] == second["images"] and len(second["training"]) == 3
    for figures, others in zip(first["training"], second["training"], strict=True):
        assert figures == pytest.approx(others, rel=1e-4, abs=1e-5)
    assert two.image_threshold.item() == pytest.approx(alone.image_threshold, rel=1e-4)
    images = collect(ImageDataset(open_category(category).train, (32, 32)))
    for found, wanted in zip(two(images), one(images), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_a_killed_process_starts_again_from_the_checkpoint(torchrun, fitted, category, tmp_path):
    out = tmp_path / "out" / "m.safetensors"
    done = torchrun(KILLED, "fit", category, "--out", out, *FLAGS, restarts=1)
    assert done.returncode == 0, done.stderr
    # Three epochs of the first process, of which the third was broken off, and the third again.
    said = [line for line in done.stdout.splitlines() if line.startswith("epoch ")]
    assert sorted(line for line in said if "process 1" in line) == [
        "epoch 0 of process 1 in run 0",
        "epoch 1 of process 1 in run 0",
        "epoch 2 of process 1 in run 1",
    ]
    assert [line for line in said if line.endswith("process 0 in run 1")] == [
        "epoch 2 of process 0 in run 1"
    ]
    assert out.read_bytes() == fitted[0].read_bytes()
    assert sorted(path.name for path in out.parent.iterdir()) == ["m.safetensors"]


def test_a_bad_image_ends_all_with_its_name(torchrun, tmp_path):
    category = write_category(tmp_path / "bars", 11)
    bad = category / "good" / "07.png"
    bad.write_bytes(bad.read_bytes()[:60])
    out = tmp_path / "m.safetensors"
    # Without --timeout a process would wait for ten minutes.
    options = ("--out", out, "--align", "fa", "--no-teacher", *FLAGS)
    done = torchrun(COMMAND, "fit", category, *options)
    assert done.returncode != 0 and not out.exists()
    assert done.stderr.count(f"{bad}: ") == 1, done.stderr
    assert "fitted on" not in done.stdout


def test_nothing_keeps_the_group(tmp_path):
    """Of a process that torchrun itself has started, and that has imported nothing before."""
    (tmp_path / "program.py").write_text(GROUP)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    command += [str(tmp_path / "program.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2"]


def test_bad_images_are_left_out_by_all(processes, tmp_path):
    category = write_category(tmp_path / "bars", 6)
    (category / "good" / "02.png").write_bytes(b"no image")
    kept = [f"{index:02d}.png" for index in (0, 1, 3, 4, 5)]
    assert processes(2, "opened", directory=category) == [(kept, ["02.png"])] * 2
