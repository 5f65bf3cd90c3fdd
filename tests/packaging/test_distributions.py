"""The wheel and the sdist: complete, nothing too much, and usable where the checkout is not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import fastalign

pytestmark = pytest.mark.slow

# Files that belong to the repository and not to its distributions.
REPOSITORY_ONLY = {".gitignore"}


@pytest.fixture(scope="module")
def wheel_names(distributions) -> set[str]:
    with zipfile.ZipFile(distributions.wheel) as archive:
        return set(archive.namelist())


def test_the_sdist_holds_every_file_of_the_project(distributions, source_files):
    missing = {str(path) for path in source_files} - REPOSITORY_ONLY - distributions.sdist_names
    assert sorted(missing) == []


def test_the_sdist_holds_no_build_products(distributions):
    products = (".so", ".o", ".a", ".pyc")
    assert [name for name in distributions.sdist_names if name.endswith(products)] == []


def test_the_wheel_installs_one_package(wheel_names):
    version = fastalign.__version__
    assert {name.partition("/")[0] for name in wheel_names} == {
        "fastalign",
        f"fastalign-{version}.dist-info",
    }


def test_the_wheel_holds_every_module(wheel_names, source_files):
    modules = {str(path) for path in source_files if path.parts[0] == "fastalign"}
    modules |= {f"fastalign/{path}" for path in source_files if path.parts[0] == "kernels"}
    assert sorted(modules - wheel_names) == []
    assert "fastalign/py.typed" in wheel_names


def test_the_wheel_holds_no_sources_of_native_code(wheel_names):
    assert [n for n in wheel_names if n.endswith((".cpp", ".cu", ".cuh", ".h"))] == []


def test_licence_and_attribution_travel_along(wheel_names):
    folder = f"fastalign-{fastalign.__version__}.dist-info/licenses"
    assert {f"{folder}/LICENSE", f"{folder}/NOTICE"} <= wheel_names
    assert "fastalign/demo_data/README.md" in wheel_names


@pytest.fixture(scope="module")
def elsewhere(distributions, tmp_path_factory) -> Path:
    """A new environment with the wheel; it borrows the other packages from the present one."""
    folder = tmp_path_factory.mktemp("another place") / "env"
    venv.create(folder, symlinks=True, with_pip=False)
    python = folder / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps"]
        + ["--no-index", distributions.wheel],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    # A path in a .pth file is searched, but .pth files inside it are not read: the editable
    # installation of this checkout stays out of sight.
    (site,) = folder.glob("lib/python*/site-packages")
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "borrowed.pth").write_text("\n".join(borrowed))
    return folder


def run_there(elsewhere: Path, *command: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [elsewhere / "bin" / command[0], *command[1:]],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# One process says all, since importing torch takes longer than the rest.
SAID = """
import json
import torch, fastalign, fastalign.ops, fastalign.nn, fastalign.kernels as kernels
from fastalign.data import open_category
from fastalign.engine.demo import demo_category
from fastalign.ops import native

missing = native.load()
if missing is None:
    from fastalign import _C
x = torch.rand(2, 3, 4, 4)
with demo_category() as folder:
    category = open_category(folder)
    masks = sum(bool(sample.mask_paths) for sample in category.test)
print(json.dumps({
    "files": [fastalign.__file__, kernels.__file__],
    "sum": float(fastalign.ops.dense_similarity(x, x).sum()),
    "targets": _C.cuda_targets() if missing is None else missing,
    "demo": [len(category.train), len(category.test), masks],
}))
"""


@pytest.fixture(scope="module")
def said(elsewhere) -> dict:
    """What the wheel says of itself in the other environment."""
    return json.loads(run_there(elsewhere, "python", "-c", SAID))


def test_the_wheel_works_in_another_environment(said, elsewhere):
    assert all(Path(name).is_relative_to(elsewhere) for name in said["files"])
    assert said["sum"] > 0


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_the_wheel_holds_the_cuda_kernels_that_were_asked_for(said, distributions):
    assert "sm_90" in said["targets"]
    with zipfile.ZipFile(distributions.wheel) as archive:
        assert b".nv_fatbin" in archive.read("fastalign/_C.abi3.so")


def test_the_demo_data_is_found_in_the_installed_package(said):
    assert said["demo"] == [23, 28, 19]


def test_the_command_is_installed(elsewhere):
    out = run_there(elsewhere, "fastalign", "--version")
    assert out.split() == ["fastalign", fastalign.__version__]
