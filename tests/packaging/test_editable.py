"""An editable installation is seen by Python and by tools that only read folders and links."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

# The hook that pip calls, without the native library.
BUILD = """
import os
os.environ["FASTALIGN_BUILD_NATIVE"] = "0"
from setuptools import build_meta
print(build_meta.build_editable("../out"))
"""


@pytest.fixture
def source(repository: Path, source_files: list[Path], tmp_path: Path) -> Path:
    folder = tmp_path / "a checkout"
    for path in source_files:
        if path.parts[0] in ("fastalign", "kernels", "tools") or len(path.parts) == 1:
            if "demo_data" not in path.parts:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(repository / path, folder / path)
    (tmp_path / "out").mkdir()
    return folder


def install(source: Path) -> tuple[Path, str]:
    """Python of a new environment with the editable installation and nothing else, and what the
    build said."""
    done = subprocess.run([sys.executable, "-c", BUILD], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    environment = source.parent / "env"
    venv.create(environment, symlinks=True, with_pip=False)
    (site,) = environment.glob("lib/python*/site-packages")
    (wheel,) = (source.parent / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return environment / "bin" / "python", done.stdout + done.stderr


def found(python: Path, place: Path) -> list[Path]:
    """Where Python finds the package and its kernels from ``place``."""
    code = (
        "import importlib.util as u\n"
        "for name in ('fastalign', 'fastalign.kernels.common'):\n"
        "    print(u.find_spec(name).origin)"
    )
    done = subprocess.run([python, "-c", code], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [Path(line).resolve() for line in done.stdout.splitlines()]


USER = """
from fastalign.errors import InputError
from fastalign.kernels import common

reveal_type(InputError.exit_code)
print(common.__file__)
common.no_such_name
"""


@pytest.mark.skipif(sys.platform == "win32", reason="scripts of an environment lie elsewhere")
def test_python_and_mypy_see_it_from_outside(source, tmp_path):
    pytest.importorskip("mypy", reason="mypy is not installed: pip install mypy")
    python, _ = install(source)
    files = [source / "fastalign" / "__init__.py", source / "kernels" / "common.py"]
    assert found(python, tmp_path) == files
    assert found(python, source) == files
    (tmp_path / "user.py").write_text(USER)
    command = [sys.executable, "-m", "mypy", "--python-executable", python, "user.py"]
    command += ["--cache-dir", str(tmp_path / "cache"), "--config-file", ""]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    first, second, *_ = done.stdout.splitlines()
    assert 'Revealed type is "int"' in first or "builtins.int" in first, done.stdout
    assert second.startswith("user.py:7: error") and "no_such_name" in second, done.stdout
    assert len(done.stdout.splitlines()) == 3, done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="scripts of an environment lie elsewhere")
def test_where_links_cannot_be_made_python_sees_it_all_the_same(source, tmp_path):
    (source / ".editable").write_text("in the way\n")
    python, said = install(source)
    assert said.count("fastalign: editors will not find this installation") == 1
    files = [source / "fastalign" / "__init__.py", source / "kernels" / "common.py"]
    assert found(python, tmp_path) == files
