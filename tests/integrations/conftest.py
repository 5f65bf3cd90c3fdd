"""A small category of real photographs for anomalib, and one model fitted on it."""

from __future__ import annotations

import logging
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

SIDE = 64
# Every part of the model, but little of each; of poses, translations alone, since a search for
# turns is most of the time of so small a fit.
OPTIONS = {
    "image_size": (SIDE, SIDE),
    "channels": 16,
    "epochs": 1,
    "batch_size": 8,
    "family": "translation",
    "search_images": 8,
}


def _copy(source: Path, target: Path, side: int | None) -> None:
    target.mkdir(parents=True)
    for path in sorted(source.iterdir())[:8]:
        if side is None:
            shutil.copy(path, target)
            continue
        with Image.open(path) as image:
            image.resize((side, side)).save(target / f"{path.stem}.png")


def _category(demo_data: Path, root: Path, side: int | None) -> Path:
    for folder in ("train/good", "test/good", "test/missing_screw", "ground_truth/missing_screw"):
        _copy(demo_data / folder, root / folder, side)
    return root


@pytest.fixture(scope="session")
def category(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photographs of each kind at the model's size, which nobody needs to resize."""
    return _category(demo_data, tmp_path_factory.mktemp("square") / "screw_plate", SIDE)


@pytest.fixture(scope="session")
def photographs(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as they are: 304 wide and 400 high."""
    return _category(demo_data, tmp_path_factory.mktemp("as_is") / "screw_plate", None)


def _folder_arguments(root: Path) -> dict[str, object]:
    return {
        "name": "screw_plate",
        "root": str(root),
        "normal_dir": "train/good",
        "normal_test_dir": "test/good",
        "abnormal_dir": "test/missing_screw",
        "mask_dir": "ground_truth/missing_screw",
        "train_batch_size": 3,
        "eval_batch_size": 4,
        "num_workers": 0,
        "val_split_mode": "same_as_test",
    }


@pytest.fixture(scope="session")
def folder_arguments():
    """Of anomalib's ``Folder``, for a category of this test."""
    return _folder_arguments


@pytest.fixture(scope="session")
def datamodule(category):
    from anomalib.data import Folder

    return Folder(**_folder_arguments(category))


@pytest.fixture(scope="session")
def options() -> dict[str, object]:
    return dict(OPTIONS)


@pytest.fixture(scope="session")
def make_engine(tmp_path_factory):
    """Engines on the CPU that are quiet and write into a folder of their own."""
    from anomalib.engine import Engine

    logging.getLogger("lightning").setLevel(logging.ERROR)

    def make(**arguments: object) -> Engine:
        return Engine(
            accelerator="cpu",
            default_root_dir=tmp_path_factory.mktemp("results"),
            enable_progress_bar=False,
            enable_model_summary=False,
            **arguments,
        )

    return make


@pytest.fixture(scope="session")
def fitted(datamodule, make_engine):
    """``(engine, model)`` after ``Engine().fit``."""
    from fastalign.integrations.anomalib import Fyd

    torch.set_num_threads(1)
    model = Fyd(**OPTIONS)
    engine = make_engine()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine.fit(model, datamodule=datamodule)
    return engine, model
