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


@pytest.fixture
def source(repository: Path, source_files: list[Path], tmp_path: Path) -> Path:
    """A copy of the project's files."""
    folder = tmp_path / "source"
    for path in source_files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(repository / path, folder / path)
    return folder


def run(source: Path, *command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command of this Python in the copy; CUDA is left out, since nvcc takes minutes."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=source,
        env={**os.environ, "FASTALIGN_BUILD_CUDA": "0", **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def build_wheel(source: Path, **environment: str):
    out = source.parent / "out"
    done = run(
        source, "-m", "build", "--no-isolation", "--wheel", "--outdir", out, ".", **environment
    )
    return done, list(out.glob("*.whl"))


# The hook that pip calls for an editable installation.
EDITABLE = "from setuptools import build_meta; print(build_meta.build_editable('../out'))"


def build_editable(source: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (source.parent / "out").mkdir(exist_ok=True)
    return run(source, "-c", EDITABLE, **environment)


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


def test_without_a_compiler_it_is_pure_python(source):
    done, wheels = build_wheel(source, CXX="no-such-compiler")
    assert_pure(done, wheels, "no C++ compiler (no-such-compiler) was found")


BROKEN = 'for i in 1 2 3; do echo "error: no such instruction $i" >&2; done; exit 1'
# Writes a word where an object or a library should be.
EASY = 'while [ "$1" != -o ]; do shift; done; echo new >"$2"'


def compiler(source: Path, for_sources: str) -> str:
    """A script that accepts the build's probe and does ``for_sources`` with the project's files."""
    script = source.parent / "c++"
    script.write_text(f'#!/bin/sh\ncase "$*" in *csrc*|*-shared*) {for_sources};; esac\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def test_what_does_not_compile_is_left_out(source):
    done, wheels = build_wheel(source, CXX=compiler(source, BROKEN))
    assert_pure(done, wheels, "failed to compile (error: no such instruction 1)")


def test_what_was_asked_for_is_not_left_out(source):
    done, wheels = build_wheel(source, CXX=compiler(source, BROKEN), FASTALIGN_BUILD_NATIVE="1")
    assert done.returncode != 0 and wheels == []
    assert "failed to compile" in done.stdout + done.stderr


REMOVED = "fastalign: removed _C.abi3.so of an earlier build"


@pytest.fixture
def old_library(source) -> Path:
    """What an earlier editable installation left."""
    library = source / "fastalign" / "_C.abi3.so"
    library.write_text("old\n")
    return library


@pytest.mark.parametrize(
    "reason", ["switched off", "no compiler", "broken", "broken and asked for"]
)
@pytest.mark.parametrize("how", ["editable", "in place"])
def test_an_editable_build_leaves_no_old_library(how, reason, source, old_library):
    environment = {
        "switched off": {"FASTALIGN_BUILD_NATIVE": "0"},
        "no compiler": {"CXX": "no-such-compiler"},
        "broken": {"CXX": compiler(source, BROKEN)},
        "broken and asked for": {"CXX": compiler(source, BROKEN), "FASTALIGN_BUILD_NATIVE": "1"},
    }[reason]
    if how == "editable":
        done = build_editable(source, **environment)
    else:
        done = run(source, "setup.py", "build_ext", "--inplace", **environment)
    assert (done.returncode == 0) == (reason != "broken and asked for")
    assert not old_library.exists()
    assert (done.stdout + done.stderr).count(REMOVED) == 1


def test_an_editable_build_replaces_the_library_in_one_step(source, old_library):
    with old_library.open() as mapped:
        done = build_editable(source, CXX=compiler(source, EASY))
        assert done.returncode == 0, done.stdout + done.stderr
        assert old_library.read_text() == "new\n"
        assert mapped.read() == "old\n"
    assert [path.name for path in old_library.parent.glob("_C*")] == [old_library.name]
    assert REMOVED not in done.stdout + done.stderr


def test_a_wheel_leaves_the_editable_library_alone(source, old_library):
    done, wheels = build_wheel(source, FASTALIGN_BUILD_NATIVE="0")
    assert done.returncode == 0 and len(wheels) == 1
    assert old_library.read_text() == "old\n"
    with zipfile.ZipFile(wheels[0]) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]


def test_a_wheel_takes_no_library_of_an_earlier_build(source):
    """The build folder stays; a build that fails later must not pack what lies there."""
    done, wheels = build_wheel(source, CXX=compiler(source, EASY))
    assert done.returncode == 0 and "-abi3-" in wheels[0].name
    wheels[0].unlink()
    (source / "csrc" / "module.cpp").touch()
    done, wheels = build_wheel(source, CXX=compiler(source, BROKEN))
    assert_pure(done, wheels, "failed to compile")
