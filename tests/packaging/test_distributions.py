"""The wheel and the sdist: complete, nothing too much, and usable where the checkout is not."""

from __future__ import annotations

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


def test_the_wheel_works_in_another_environment(elsewhere):
    out = run_there(
        elsewhere,
        "python",
        "-c",
        "import torch, fastalign, fastalign.ops, fastalign.nn, fastalign.kernels as kernels\n"
        "print(fastalign.__file__)\nprint(kernels.__file__)\n"
        "x = torch.rand(2, 3, 4, 4)\n"
        "print(float(fastalign.ops.dense_similarity(x, x).sum()) > 0)",
    ).splitlines()
    assert Path(out[0]).is_relative_to(elsewhere)
    assert Path(out[1]).is_relative_to(elsewhere)
    assert out[2] == "True"


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_the_wheel_holds_the_cuda_kernels_that_were_asked_for(elsewhere):
    code = "from fastalign.ops import native; native.load(); import fastalign._C as library\n"
    assert "sm_90" in run_there(elsewhere, "python", "-c", code + "print(library.cuda_targets())")


def test_the_command_is_installed(elsewhere):
    out = run_there(elsewhere, "fastalign", "--version")
    assert out.split() == ["fastalign", fastalign.__version__]


def test_the_demo_data_is_found_in_the_installed_package(elsewhere):
    out = run_there(
        elsewhere,
        "python",
        "-c",
        "from fastalign.engine.demo import demo_category\n"
        "from fastalign.data import open_category\n"
        "with demo_category() as folder:\n"
        "    category = open_category(folder)\n"
        "    masks = sum(bool(s.mask_paths) for s in category.test)\n"
        "    print(len(category.train), len(category.test), masks)",
    )
    assert out.split() == ["23", "28", "19"]
