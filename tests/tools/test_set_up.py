"""What the set-up decides (torch, CUDA, architectures), and that a build makes what has changed and
nothing else."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import choose_torch
import extras
import pytest
from native_build import cuda, graph
from native_build.machine import Unavailable

EVERY = "8.0;9.0;10.0;12.0+PTX"

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler (c++)")


@pytest.mark.parametrize(
    ("switch", "named", "capabilities", "expected"),
    [
        ("auto", "", [], ""),
        ("auto", "", ["9.0"], "9.0"),
        ("auto", "", ["8.6", "12.0"], "8.6;12.0"),
        ("auto", "", ["13.0"], "12.0+PTX"),
        ("auto", "", ["5.2"], ""),
        ("auto", "7.5+PTX", [], "7.5+PTX"),
        ("1", "", [], EVERY),
        ("1", "", ["9.0"], EVERY),
        ("1", "8.0 9.0", [], "8.0 9.0"),
        ("0", "9.0", ["9.0"], ""),
    ],
)
def test_which_gpus_kernels_are_built_for(
    switch, named, capabilities, expected, monkeypatch, capsys
):
    monkeypatch.setenv("FASTALIGN_BUILD_CUDA", switch)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", named)
    monkeypatch.setattr(cuda, "gpus", lambda: capabilities)
    monkeypatch.setattr(cuda, "nvcc", lambda: "nvcc")
    known = ["7.5", "8.0", "8.6", "9.0", "10.0", "12.0"]
    monkeypatch.setattr(cuda, "known_architectures", lambda nvcc: known)
    assert cuda.cuda_architectures(EVERY) == expected
    told = capsys.readouterr().err.splitlines()
    assert len(told) == (switch == "auto" and not expected)


def test_cuda_that_was_asked_for_is_not_left_out(monkeypatch):
    monkeypatch.setenv("FASTALIGN_BUILD_CUDA", "1")
    with pytest.raises(SystemExit, match="error: CUDA kernels: nvcc was not found"):
        cuda.without_cuda("nvcc was not found")


PIP = "torch (2.15.0)\nAvailable versions: 3.0.0+cpu, 2.15.0, 2.14.1+cpu1, {0}2.10.0+cpu, 2.9.1\n"


@pytest.mark.parametrize(
    ("platform", "capabilities", "reached", "versions", "expected"),
    [
        ("linux", ["9.0"], True, "2.13.0+cpu, ", choose_torch.PLAIN),
        ("darwin", [], True, "2.13.0+cpu, ", choose_torch.PLAIN),
        (
            "linux",
            [],
            True,
            "2.13.0+cpu, ",
            ["--index-url", choose_torch.INDEX, *choose_torch.PLAIN],
        ),
        ("linux", [], False, "2.13.0+cpu, 2.11.0+cpu, ", ["torch==2.13.0+cpu", "torchvision"]),
        ("linux", [], False, "", choose_torch.PLAIN),
    ],
    ids=["GPU", "other system", "index", "beside the others", "nothing without CUDA"],
)
def test_which_torch_is_installed(platform, capabilities, reached, versions, expected, monkeypatch):
    monkeypatch.setattr(choose_torch, "answers", lambda index: reached)
    monkeypatch.setattr(choose_torch, "versions_of_pip", lambda: PIP.format(versions))
    arguments, why = choose_torch.choose(platform, capabilities)
    assert arguments == expected and "\n" not in why


def test_an_index_that_is_not_there_stops_nothing():
    assert not choose_torch.answers("http://127.0.0.1:9")


def test_extras_name_what_they_and_others_ask_for():
    project = {
        "name": "part",
        "dependencies": ["torch>=2"],
        "optional-dependencies": {
            "all": ["part[one, two]"],
            "one": ["ray[data]>=2"],
            "two": ["part[one]", "wheel; platform_system == 'Linux'", "torch>=2"],
        },
    }
    wheel = "wheel; platform_system == 'Linux'"
    assert extras.requirements(project, ["all"]) == ["torch>=2", "ray[data]>=2", wheel]
    assert extras.requirements(project, ["one"]) == ["torch>=2", "ray[data]>=2"]
    with pytest.raises(SystemExit, match="'three' is no extra of part"):
        extras.requirements(project, ["one", "three"])


def test_torch_is_that_of_the_project(repository):
    text = (repository / "pyproject.toml").read_text()
    assert set(re.findall(r'"(torch[><=][^"]*)"', text)) == {choose_torch.RANGE}


@pytest.fixture
def tree(tmp_path) -> Path:
    """Two sources, one of which includes a header that includes another; a space in the path."""
    root = tmp_path / "a tree"
    (root / "src").mkdir(parents=True)
    (root / "src" / "deep.h").write_text("#define VALUE 1\n")
    (root / "src" / "one.h").write_text('#include "deep.h"\n')
    (root / "src" / "one.cpp").write_text('#include "one.h"\nint one() { return VALUE; }\n')
    (root / "src" / "two.cpp").write_text("int two() { return 2; }\n")
    return root


def build(tree: Path, capsys, **flags: str) -> list[str]:
    """What a build made, in the words of its progress."""
    plan = graph.Graph(tree / "build", tree)
    objects = [
        plan.compile(tree / "src" / f"{name}.cpp", "common", ["c++", "-fPIC", *shlex.split(flag)])
        for name, flag in ({"one": "", "two": ""} | flags).items()
    ]
    library = plan.link(tree / "build" / "lib.so", ["c++", "-shared"], objects, ["-lm"])
    plan.bring([library])
    assert library.exists()
    return re.findall(r"^\[\d+/\d+\] (.*)$", capsys.readouterr().out, re.M)


@needs_compiler
def test_a_build_makes_what_has_changed_and_nothing_else(tree, capsys):
    one, two, linked = "src/one.cpp", "src/two.cpp", "linking lib.so"
    assert sorted(build(tree, capsys)) == sorted([one, two, linked])
    assert build(tree, capsys) == []
    for name, made in (("two.cpp", two), ("one.h", one), ("deep.h", one)):
        (tree / "src" / name).touch()
        assert build(tree, capsys) == [made, linked], name
    assert build(tree, capsys, two="-DOTHER='a b'") == [two, linked]
    assert build(tree, capsys, two="-DOTHER='a b'") == []


@needs_compiler
def test_what_fails_is_named(tree, capsys):
    (tree / "src" / "two.cpp").write_text("int two( { return 2; }\n")
    with pytest.raises(Unavailable, match=r"^src/two\.cpp failed to compile \(.*error"):
        build(tree, capsys)
    (tree / "src" / "two.cpp").write_text("int one() { return 2; }\n")
    with pytest.raises(Unavailable, match=r"^linking lib\.so failed \(.*"):
        build(tree, capsys)
