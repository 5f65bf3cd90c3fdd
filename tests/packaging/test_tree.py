"""What must not be in the repository, and the places that have to agree with each other."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest

import fastalign
from fastalign.data import load_image

TEXT = {"", ".c", ".cfg", ".cpp", ".css", ".cu", ".cuh", ".csv", ".h", ".html", ".in", ".j2", ".js"}
TEXT |= {".json", ".md", ".py", ".pyi", ".sh", ".svg", ".toml", ".txt", ".typed", ".yaml", ".yml"}

# Written in pieces, so that this file does not find itself.
MACHINE_PATHS = (
    r"(?:^|[^.\w-])/(?:" + "|".join(["wo" + "rk", "ro" + "ot", "ho" + "me"]) + r")/[\w.]"
)
HOSTS = r"://[a-z.]*(?:" + "|".join(["py" + "pi", "npm" + "js", "deb" + "ian"]) + ")"
MARKS = r"\b(?:" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")\b"


def read_texts(repository: Path, source_files: list[Path]) -> dict[Path, str]:
    return {
        path: (repository / path).read_text(encoding="utf-8")
        for path in source_files
        if path.suffix in TEXT
    }


@pytest.mark.parametrize(
    ("pattern", "sample"),
    [
        (MACHINE_PATHS, "data = '/" + "home/someone'"),
        (HOSTS, "https://" + "pypi.org/simple"),
        (MARKS, "# TO" + "DO: later"),
    ],
    ids=["machine paths", "package registries", "marks of unfinished work"],
)
def test_no_file_mentions(pattern, sample, repository, source_files):
    assert re.search(pattern, sample)
    texts = read_texts(repository, source_files)
    assert len(texts) > 20
    found = [
        f"{path}:{number}: {line.strip()[:100]}"
        for path, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert found == []


def test_every_file_of_the_package_is_shipped(repository, source_files):
    """Pages and styles go by patterns; one that none fits would be missing after an installation
    alone."""
    text = (repository / "pyproject.toml").read_text(encoding="utf-8")
    listed = text.partition("[tool.setuptools.package-data]")[2].partition("]")[0]
    patterns = re.findall(r'"([^"]+)"', listed)
    inside = [path for path in source_files if path.parts[0] == "fastalign"]
    others = [path for path in inside if path.suffix not in {".py", ".pyi"}]
    assert len(patterns) > 5 and len(others) > 20
    left = [
        path
        for path in others
        if not any(path.match(f"fastalign/{pattern}") for pattern in patterns)
        and path.parts[1] != "demo_data"
    ]
    assert left == []


def test_no_large_files_and_no_build_products(repository, source_files):
    large = [str(p) for p in source_files if (repository / p).stat().st_size > 2_000_000]
    products = [str(p) for p in source_files if p.suffix in {".so", ".o", ".pyc", ".whl"}]
    assert large == [] and products == []


def test_the_demo_data_is_small_and_whole(demo_data):
    images = sorted(demo_data.glob("t*/*/*.jpg"))
    masks = {path.stem.removesuffix("_mask") for path in demo_data.glob("ground_truth/*/*.png")}
    assert len(images) == 51
    assert masks == {p.stem for p in images if p.parent.name == "missing_screw"}
    assert sum(p.stat().st_size for p in demo_data.rglob("*.*")) < 2_500_000


def test_no_two_photographs_of_the_demo_data_show_the_same(demo_data):
    pixels = [load_image(path).tobytes() for path in sorted(demo_data.glob("t*/*/*.jpg"))]
    assert len(set(pixels)) == len(pixels)


def test_the_version_stands_in_one_place(repository, source_files):
    version = fastalign.__version__
    assert metadata.version("fastalign") == version
    assert f"## {version}" in (repository / "CHANGELOG.md").read_text()
    code = {p: t for p, t in read_texts(repository, source_files).items() if p.suffix != ".md"}
    # A measurement names the version that was measured.
    code = {path: text for path, text in code.items() if "results" not in path.parts}
    places = [str(path) for path, text in code.items() if f'"{version}"' in text]
    assert places == ["fastalign/__init__.py"]


def test_dependencies_are_ranges():
    pinned = [
        r
        for r in metadata.requires("fastalign")
        if re.search(r"[^!<>=~]==[^=]", r.partition(";")[0])
    ]
    assert pinned == []


def test_the_makefile_installs_what_the_build_requires(repository):
    build = re.search(r"^requires = \[(.*)\]$", (repository / "pyproject.toml").read_text(), re.M)
    make = re.search(r"^BUILD_REQUIRES := (.*)$", (repository / "Makefile").read_text(), re.M)
    assert re.findall(r'"([^"]+)"', make[1]) == re.findall(r'"([^"]+)"', build[1])


def test_the_makefile_and_ci_name_files_that_exist(repository):
    text = (repository / "Makefile").read_text()
    named = set(re.findall(r"\b(?:tests|tools|benchmarks|csrc)/[\w./-]+\.(?:py|sh)\b", text))
    assert [name for name in sorted(named) if not (repository / name).is_file()] == []
    assert "make test" in (repository / ".ci" / "run").read_text()
