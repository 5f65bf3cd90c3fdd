"""The project's own files, and its distributions built once for all tests here."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

# With importmode=importlib, pytest adds no folder to the import path.
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "tools")]

import own_objects  # noqa: E402

NOT_SOURCE = {".git", ".venv", "venv", "build", "dist", "__pycache__", "fastalign-demo", "runs"}
NOT_SOURCE |= {".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", ".benchmarks"}
PRODUCTS = {".so", ".o", ".a", ".pyc", ".pyd"}


def list_source_files(repository: Path) -> list[Path]:
    """The project's files, relative: what git tracks, or what lies there in an unpacked sdist."""
    if (repository / ".git").exists() and shutil.which("git"):
        names = subprocess.run(
            ["git", "ls-files", "-z"], cwd=repository, check=True, capture_output=True
        ).stdout.decode()
        listed = (Path(name) for name in names.split("\0") if name)
        return sorted(path for path in listed if (repository / path).is_file())
    found = []
    for folder, subfolders, files in os.walk(repository):
        subfolders[:] = [
            name for name in subfolders if name not in NOT_SOURCE and not name.endswith(".egg-info")
        ]
        found += [Path(folder, name).relative_to(repository) for name in files]
    return sorted(path for path in found if path.suffix not in PRODUCTS)


@pytest.fixture(scope="session")
def source_files(repository: Path) -> list[Path]:
    return list_source_files(repository)


@dataclass(frozen=True)
class Distributions:
    sdist_names: frozenset[str]
    """The sdist's files, below its one folder."""
    wheel: Path
    """Built from the sdist, so a file that the sdist forgot is missing here too."""


# nvcc without the translation to machine code, which takes half of its time.
ASSEMBLY = """#!/bin/sh
for word do
  shift
  case "$word" in *,code=sm_90) word="${{word%sm_90}}compute_90";; esac
  set -- "$@" "$word"
done
exec {nvcc} "$@"
"""


def quick_build(folder: Path, repository: Path) -> dict[str, str]:
    """The environment of a build that takes what the checkout's own build has compiled from the
    same files, and else the quickest way: what is looked at here are the files, names and symbols
    of the distributions, which are the same."""
    # One GPU architecture, and its assembly: the machine code of all is recorded by tests/records.
    quick = {"FASTALIGN_BUILD_CUDA": "auto", "TORCH_CUDA_ARCH_LIST": "9.0"}
    quick["NVCC_APPEND_FLAGS"] = "-Ofc max -Xcicc -O1 -Xcompiler -O0"
    nvcc = shutil.which(os.environ.get("NVCC", "nvcc"))
    if nvcc is not None and os.name == "posix":
        script = folder / "nvcc"
        script.write_text(ASSEMBLY.format(nvcc=shlex.quote(nvcc)))
        script.chmod(0o755)
        quick["NVCC"] = str(script)
    named = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    compiler = next((name for name in named if shutil.which(shlex.split(name)[0])), None)
    if compiler is not None and os.name == "posix":
        build = repository / "build" / "native" / "release"
        quick["CXX"] = str(own_objects.install(folder, repository, build, compiler))
    return quick


def run_build(kind: str, source: Path, out: Path, environment: dict[str, str]) -> Path:
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", out, source],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    (built,) = out.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return built


@pytest.fixture(scope="session")
def distributions(
    repository: Path, source_files: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Distributions:
    """sdist and wheel of a copy of the project, in a folder whose name has a space."""
    top = tmp_path_factory.mktemp("build here")
    quick = quick_build(tmp_path_factory.mktemp("compilers"), repository)
    copy = top / "source"
    for path in source_files:
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(repository / path, copy / path)
    sdist = run_build("sdist", copy, top / "sdist", quick)
    with tarfile.open(sdist) as archive:
        names = [member.name for member in archive.getmembers() if member.isfile()]
        # Python releases before 3.11.4 know no filters; the archive is our own either way.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        archive.extractall(top / "unpacked")
    (unpacked,) = (top / "unpacked").iterdir()
    return Distributions(
        frozenset(name.partition("/")[2] for name in names),
        run_build("wheel", unpacked, top / "wheel", quick),
    )
