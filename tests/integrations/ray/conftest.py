"""A small model of the shipped photographs, and what the tests of Ray share."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from fastalign import artifact
from fastalign.engine import fit_category, predict_paths

OPTIONS = {"image_size": (64, 64), "epochs": 1, "channels": 8, "align": "none", "layers": (1, 2)}


@pytest.fixture(scope="session")
def model_file(tmp_path_factory, demo_data) -> Path:
    """A model fitted on the shipped photographs, as small as it gets."""
    from fastalign.models.config import FYDConfig

    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    fit_category(demo_data, path, config=FYDConfig(**OPTIONS))
    return path


@pytest.fixture(scope="session")
def photos(tmp_path_factory, demo_data) -> Path:
    """Twenty of the shipped photographs in two folders."""
    root = tmp_path_factory.mktemp("photos")
    for kind, count in (("good", 9), ("missing_screw", 11)):
        (root / kind).mkdir()
        for path in sorted((demo_data / "test" / kind).glob("*.jpg"))[:count]:
            shutil.copy(path, root / kind)
    return root


@pytest.fixture(scope="session")
def expected(tmp_path_factory, model_file, photos):
    """What ``predict`` in one process says of ``photos`` by name."""
    import torch

    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("local")
    found = predict_paths(artifact.load(model_file), photos, out, outputs=["map"])
    return {
        item.path: (item.score, item.verdict.text, item.reason, item.map.read_bytes(), item.regions)
        for item in found.images
    }


@pytest.fixture
def listed(tmp_path, photos):
    """A copy of ``photos`` and a list of them: ``(folder, list, names)``."""
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))
    path = folder / "images.txt"
    path.write_text("".join(f"{name}\n" for name in names))
    return folder, path, names


@pytest.fixture
def read_rows():
    """The rows of an output in the order of the input."""

    def read(out: Path) -> list[dict]:
        import pyarrow.parquet as pq

        return pq.read_table(out / "scores").sort_by("index").to_pylist()

    return read


@pytest.fixture
def as_expected(expected):
    """Check a row against ``predict`` in one process, bit for bit."""

    def check(row: dict, out: Path | None = None) -> None:
        score, verdict, reason, scored, regions = expected[row["path"]]
        assert (row["score"], row["verdict"], row["reason"] or "") == (score, verdict, reason)
        assert row["ms"] > 0
        if "regions" in row:
            assert json.loads(row["regions"]) == [region.to_json() for region in regions]
            assert bool(regions) == (verdict == "anomaly")
        if out is not None:
            assert (out / row["map"]).read_bytes() == scored

    return check


def descendants(root: int) -> dict[int, str]:
    """The processes below ``root`` with their command lines, from ``/proc``."""
    parents, commands = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parents[int(entry.name)] = int(
                (entry / "stat").read_text().rpartition(")")[2].split()[1]
            )
            commands[int(entry.name)] = (entry / "cmdline").read_text(errors="replace")
        except OSError:
            continue

    def below(pid: int) -> bool:
        while pid in parents:
            pid = parents[pid]
            if pid == root:
                return True
        return False

    return {pid: text for pid, text in commands.items() if below(pid)}


@pytest.fixture
def workers_below():
    """The workers of a run that a process has started: process numbers."""

    def find(root: int) -> list[int]:
        return [pid for pid, text in descendants(root).items() if "MapWorker" in text]

    return find


@pytest.fixture
def alive():
    """Whether a process still runs; one that only waits to be collected does not."""

    def ask(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    return ask


@pytest.fixture
def make_pipe(tmp_path):
    """Put a named pipe in the place of an image: reading it waits, at a point that a test knows."""

    def swap(image: Path) -> Path:
        kept = tmp_path / f"kept-{image.name}"
        os.replace(image, kept)
        os.mkfifo(image)
        return kept

    return swap
