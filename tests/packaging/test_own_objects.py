"""The build of the distributions takes objects of the checkout's own where they are the same."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import own_objects
import pytest
from native_build.graph import Graph

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler (c++)")


@pytest.fixture
def compiler(tmp_path: Path) -> Path:
    """For copies of a project of one source, whose object in the project's own build has a mark."""
    own = tmp_path / "own"
    (own / "csrc").mkdir(parents=True)
    (own / "csrc" / "a.h").write_text("inline int a() { return 1; }\n")
    (own / "csrc" / "a.cpp").write_text('#include "a.h"\nint b() { return a(); }\n')
    graph = Graph(own / "build", own)
    made = graph.compile(own / "csrc" / "a.cpp", "common", ["c++", "-DN=1"])
    graph.bring([made])
    when = made.stat()
    with made.open("ab") as file:
        file.write(b"own")
    os.utime(made, ns=(when.st_atime_ns, when.st_mtime_ns))
    shutil.copytree(own / "csrc", tmp_path / "a copy" / "csrc")
    return own_objects.install(tmp_path, own, own / "build", "c++")


def build(compiler: Path, *flags: str) -> bytes | None:
    """What the compiler makes of the copy; None where it fails."""
    folder = compiler.parent
    source, out = folder / "a copy" / "csrc" / "a.cpp", folder / "a.o"
    products = ["-MD", "-MF", folder / "a.o.d", "-o", out]
    done = subprocess.run([compiler, *flags, "-c", source, *products], stderr=subprocess.DEVNULL)
    return out.read_bytes() if done.returncode == 0 else None


def test_the_same_call_and_files_give_the_same_object(compiler, tmp_path):
    assert build(compiler, "-DN=1").endswith(b"own")
    read = (tmp_path / "a.o.d").read_text()
    assert str(tmp_path / "a copy" / "csrc" / "a.h").replace(" ", "\\ ") in read


@pytest.mark.parametrize("change", ["call", "header", "no header", "own header"])
def test_anything_else_is_compiled(change, compiler, tmp_path):
    header = tmp_path / "a copy" / "csrc" / "a.h"
    if change == "header":
        header.write_text("inline int a() { return 2; }\n")
    elif change == "no header":
        header.unlink()
    elif change == "own header":
        # Later than its object: what that was made of is not known any more.
        own = tmp_path / "own"
        (own / "csrc" / "a.h").touch()
        own_objects.install(tmp_path, own, own / "build", "c++")
    made = build(compiler, "-DN=2" if change == "call" else "-DN=1")
    if change == "no header":
        assert made is None
    else:
        assert made and not made.endswith(b"own")
