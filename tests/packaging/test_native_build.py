"""The native library in the wheel, and what becomes of the wheel where it cannot be built."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

LINE = "fastalign: installing without native kernels: "


def has_compiler() -> bool:
    return any(shutil.which(name) for name in ("c++", "g++", "clang++"))


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
@pytest.mark.skipif(sys.platform != "linux", reason="names of wheels differ")
def test_one_wheel_for_every_python(distributions):
    assert "-cp310-abi3-" in distributions.wheel.name
    with zipfile.ZipFile(distributions.wheel) as archive:
        libraries = [name for name in archive.namelist() if name.endswith(".so")]
    assert libraries == ["fastalign/_C.abi3.so"]


def build_wheel(repository: Path, source_files: list[Path], folder: Path, **environment: str):
    for path in source_files:
        (folder / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(repository / path, folder / "source" / path)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder / "out"]
        + [folder / "source"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    return done, list((folder / "out").glob("*.whl"))


def assert_pure(done: subprocess.CompletedProcess[str], wheels: list[Path], reason: str) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in (done.stdout + done.stderr).splitlines() if LINE in line]
    assert len(lines) == 1 and reason in lines[0]
    (wheel,) = wheels
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert "fastalign/ops/native.py" in names
        assert not [name for name in names if name.endswith(".so")]
        (metadata,) = [name for name in names if name.endswith(".dist-info/WHEEL")]
        assert "Root-Is-Purelib: true" in archive.read(metadata).decode()


def test_without_a_compiler_it_is_pure_python(repository, source_files, tmp_path):
    done, wheels = build_wheel(repository, source_files, tmp_path, CXX="no-such-compiler")
    assert_pure(done, wheels, "no C++ compiler (no-such-compiler) was found")


@pytest.fixture
def broken_compiler(tmp_path) -> str:
    """Compiles a probe and fails on the project's sources, with many lines of complaint."""
    script = tmp_path / "c++"
    script.write_text(
        '#!/bin/sh\ncase "$*" in\n'
        '  *csrc*) for i in 1 2 3; do echo "error: no such instruction $i" >&2; done; exit 1;;\n'
        "  *) exit 0;;\nesac\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def test_what_does_not_compile_is_left_out(repository, source_files, tmp_path, broken_compiler):
    done, wheels = build_wheel(repository, source_files, tmp_path, CXX=broken_compiler)
    assert_pure(done, wheels, "failed to compile (error: no such instruction 1)")


def test_what_was_asked_for_is_not_left_out(repository, source_files, tmp_path, broken_compiler):
    done, wheels = build_wheel(
        repository, source_files, tmp_path, CXX=broken_compiler, FASTALIGN_BUILD_NATIVE="1"
    )
    assert done.returncode != 0 and wheels == []
    assert "failed to compile" in done.stdout + done.stderr
