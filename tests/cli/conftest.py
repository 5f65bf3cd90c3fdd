"""A tiny category, a model fitted on it once, and the command line in this process."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

# Poses are searched among translations: looking for turns is most of the time of so small a fit.
FIT = ("--image-size", "32", "--epochs", "1", "--channels", "8", "--validation-fraction", "0.3")
FIT += ("--family", "translation")


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@cache
def command() -> Any:
    """The command as typer makes it of ``app``: it would make it anew for each call."""
    from fastalign.cli import app

    return typer.main.get_command(app)


def run_here(*arguments: object) -> Outcome:
    """The command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            command()([str(argument) for argument in arguments], prog_name="fastalign")
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def run():
    return run_here


@pytest.fixture(scope="session")
def whole_command(tmp_path_factory) -> Path:
    """``fastalign`` as a program."""
    program = tmp_path_factory.mktemp("program") / "fastalign.py"
    program.write_text("from fastalign.cli import main\nmain()\n")
    return program


@pytest.fixture(scope="session")
def fit_options():
    return FIT


def part(rng: np.random.Generator, defect: bool = False, size: tuple[int, int] = (40, 48)):
    """A bright ring on grey; the defect is a dark block in it."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - height / 2, x - width / 2)
    image = np.where(abs(distance - 12) < 4, 210.0, 80.0)
    if defect:
        image[height // 2 - 18 : height // 2 - 6, width // 2 - 6 : width // 2 + 6] = 20
    image += rng.normal(0, 4, image.shape)
    return np.repeat(image.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def write_category(root: Path, train: int = 8) -> Path:
    """MVTec AD layout: ``train`` good images, 3 good and 3 defective test images with masks."""
    rng = np.random.default_rng(7)
    for folder, count, defect in (
        ("train/good", train, False),
        ("test/good", 3, False),
        ("test/dent", 3, True),
    ):
        (root / folder).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(part(rng, defect)).save(root / folder / f"{index:02d}.png")
    (root / "ground_truth" / "dent").mkdir(parents=True)
    mask = np.zeros((40, 48), np.uint8)
    mask[2:14, 18:30] = 255
    for index in range(3):
        Image.fromarray(mask).save(root / "ground_truth" / "dent" / f"{index:02d}_mask.png")
    return root


@pytest.fixture
def make_part():
    return part


@pytest.fixture
def ring(tmp_path):
    """A fresh category that a test may spoil."""
    return write_category(tmp_path / "ring")


@pytest.fixture(scope="session")
def whole_ring(tmp_path_factory):
    """A category for tests that only read."""
    return write_category(tmp_path_factory.mktemp("data") / "ring")


@pytest.fixture(scope="session")
def fitted(tmp_path_factory, whole_ring):
    """A model fitted on ``whole_ring`` through the command line."""
    return fit_on(whole_ring, tmp_path_factory.mktemp("model") / "ring.safetensors")


@pytest.fixture(scope="session")
def fitted_fine(tmp_path_factory, whole_ring):
    """One of fine maps and few features: of so small pictures others see all at once."""
    settings = ("strides=[4,8,16]", "reduction=draw", "prior=0")
    options = [word for setting in settings for word in ("--set", setting)]
    return fit_on(whole_ring, tmp_path_factory.mktemp("fine") / "ring.safetensors", *options)


def fit_on(folder: Path, path: Path, *options: str) -> Path:
    outcome = run_here("fit", folder, "--out", path, *FIT, *options)
    assert outcome.code == 0, outcome.err
    return path
