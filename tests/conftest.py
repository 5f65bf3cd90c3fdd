"""What every test shares: one thread, fixed seeds, no network, and very small images."""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import sys

# Before torch and its maths libraries are loaded; workers of pytest-xdist would fight for cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# A second to convert each model that a test loads; tests of OpenVINO ask for it.
os.environ.setdefault("FASTALIGN_RUNTIME", "torch")
# Torch's compiler: in this process and not in helpers that import torch first, and to code without
# vectors, for which it need not try what this machine and its C++ compiler can do.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "0")

import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

# Where it is used: of pytest-xdist the process that only hands out tests does without.
if TYPE_CHECKING:
    import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests" / "shared"))

from forks import Forks  # noqa: E402

# Until all is imported and collected, which stays to the end: see pytest_collection_finish.
gc.disable()

# Of pytest-xdist one process gets the tests of one file, and of all files whose names begin like
# this, which share what they build, fit or import; and single files that take long. What takes
# longest comes first, so that at the end no process waits for another's.
SHARED = (
    "tests/packaging/",
    "tests/cuda_on_cpu/",
    "tests/export/",
    "tests/integrations/ray/",
    "tests/distributed/",
    "tests/cli/",
    "tests/integrations/test_anomalib",
    "tests/models/test_memory.py",
    "tests/models/test_fyd.py",
    "tests/ops/test_registration.py",
    "tests/test_examples.py",
    "tests/models/test_fitting.py",
    "tests/nn/test_registration.py",
    "tests/ops/test_compile.py",
    "tests/models/test_without_host.py",
    "tests/triton/",
    "tests/bench/test_ops.py",
    "tests/native/",
)


def _scope(nodeid: str) -> str:
    file = nodeid.split("::", 1)[0]
    return next((beginning for beginning in SHARED if file.startswith(beginning)), file)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a process of pytest-xdist: in the order of ``SHARED``, then the files of most tests."""
    if not hasattr(config, "workerinput"):
        return
    scopes = [_scope(item.nodeid) for item in items]
    tests = Counter(scopes)
    slow = Counter(
        scope
        for scope, item in zip(scopes, items, strict=True)
        if item.get_closest_marker("slow") is not None
    )
    place = {scope: n for n, scope in enumerate(SHARED)}

    def key(n: int) -> tuple[object, ...]:
        scope = scopes[n]
        return place.get(scope, len(SHARED)), -tests[scope] - 100 * slow[scope], scope

    items[:] = [items[n] for n in sorted(range(len(items)), key=key)]


def _share_networks() -> None:
    """Copies in the place of networks that are made and read from the embedded weights again, some
    hundred times in a run."""
    from fastalign.nn import backbone, weights

    make = backbone.create_network
    made: dict[tuple[str, Path], tuple] = {}

    def create(name: str, given: str | Path | None) -> tuple:
        if given != "embedded":
            return make(name, given)
        key = name, weights.embedded_file()
        if key not in made:
            made[key] = make(name, given)
        return copy.deepcopy(made[key])

    backbone.create_network = create


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: garbage is not looked for in it."""
    if "fastalign.nn.backbone" in sys.modules:
        _share_networks()
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Nor in what the tests have imported and made, when Python ends."""
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """One process for each scope, in the order in which they were collected."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _scope(nodeid)

    config.option.loadscopereorder = False
    return Scheduling(config, log)


@cache
def _seed() -> Callable[[int], object]:
    """For devices that are not there, torch.manual_seed writes down where it was called each
    time."""
    import torch

    return torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed


@pytest.fixture(autouse=True)
def reproducible() -> Iterator[None]:
    """Every test starts with one thread and the same seeds, whatever ran before it."""
    import torch

    torch.set_num_threads(1)
    random.seed(0)
    np.random.seed(0)
    _seed()(0)
    yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """The top of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="module")
def forks() -> Iterator[Callable[..., Forks]]:
    """``forks(*modules)``: an interpreter that has imported these and runs programs in forks."""
    with contextlib.ExitStack() as ends:

        def make(*modules: str) -> Forks:
            made = Forks(*modules)
            ends.callback(made.close)
            return made

        yield make


# What programs under test import.
PROGRAMS = ("timm", "sklearn.metrics", "torch.distributed.launcher.api", "fastalign.cli")
PROGRAMS += ("fastalign.engine.demo", "fastalign.models.fyd")


@pytest.fixture(scope="session")
def python() -> Iterator[Forks]:
    """An interpreter whose forks have imported what most programs do."""
    with contextlib.closing(Forks(*PROGRAMS)) as forks:
        yield forks


@pytest.fixture(scope="session")
def demo_data() -> Path:
    """The shipped category ``screw_plate``: 23 + 9 + 19 real photographs, 304 x 400 px."""
    return REPOSITORY / "fastalign" / "demo_data" / "screw_plate"


def part(rng: np.random.Generator, height: int, width: int, defect: bool = False) -> np.ndarray:
    """A bright cross on grey with noise, uint8 [H,W,3]; ``defect`` puts out its upper arm."""
    image = np.full((height, width), 90.0)
    rows, columns = height // 2, width // 2
    image[rows - 2 : rows + 2, 4 : width - 4] = 200
    image[4 : height - 4, columns - 2 : columns + 2] = 200
    if defect:
        image[4 : rows - 4, columns - 2 : columns + 2] = 90
    image += rng.normal(0, 4, image.shape)
    return np.repeat(image.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture
def tiny_image() -> np.ndarray:
    """One normal image, uint8 [32,40,3]."""
    return part(np.random.default_rng(0), 32, 40)


@pytest.fixture
def tiny_batch() -> torch.Tensor:
    """Six normal images, float32 [6,3,32,40] in 0..1."""
    import torch

    rng = np.random.default_rng(0)
    images = np.stack([part(rng, 32, 40) for _ in range(6)])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).contiguous()


@pytest.fixture
def tiny_category(tmp_path: Path) -> Path:
    """A category in MVTec AD layout: 6 training, 2 good and 2 defective images, with masks."""
    rng = np.random.default_rng(0)
    root = tmp_path / "tiny"
    for folder, count, defect in (
        ("train/good", 6, False),
        ("test/good", 2, False),
        ("test/broken", 2, True),
    ):
        (root / folder).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(part(rng, 32, 40, defect)).save(root / folder / f"{index:03d}.png")
    masks = root / "ground_truth" / "broken"
    masks.mkdir(parents=True)
    mask = np.zeros((32, 40), np.uint8)
    mask[4:12, 18:22] = 255
    for index in range(2):
        Image.fromarray(mask).save(masks / f"{index:03d}_mask.png")
    return root
