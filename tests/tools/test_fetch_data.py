"""Fetching the public data sets, from copies on this disk."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import fetch_data
import numpy as np
import pytest
from PIL import Image

from fastalign.data import load_mask, open_category

COOKIES = fetch_data.COOKIES + "/dataset-files"
TRAIN = "datasets/screws/train_val_set"


def picture(kind, size, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(buffer, kind)
    return buffer.getvalue()


def coloured_mask():
    image = Image.new("RGBA", (20, 30))
    image.paste((35, 164, 54, 9), (4, 5, 8, 7))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def origin(tmp_path):
    """A mirror with a few files of each source, and its list: ``(arguments, mirror, list)``."""
    files = {
        "cookie": {
            f"{COOKIES}/training-images/normal-1.jpg": picture("JPEG", (20, 30)),
            f"{COOKIES}/training-images/anomaly-2.jpg": picture("JPEG", (20, 30), 1),
            f"{COOKIES}/mask-images/anomaly-2.png": coloured_mask(),
        },
        "screws": {
            f"{TRAIN}/7_1111.jpg": picture("JPEG", (600, 789), 2),
            f"{TRAIN}/8_1011.jpg": picture("JPEG", (600, 789), 3),
            "datasets/screws/test_set/101.jpg": picture("JPEG", (600, 789), 4),
        },
        "bsdata": {
            "data/01_1_a_crop_2.jpg": picture("JPEG", (40, 20), 5),
            "data/01_2_a_crop_2.jpg": picture("JPEG", (40, 20), 6),
            "label/01_2_a_crop_2.json": json.dumps(
                {"shapes": [{"points": [[10, 5], [20, 5], [20, 9], [10, 9]]}]}
            ).encode(),
        },
    }
    document = {
        "sources": {
            name: {
                "repository": f"someone/{name}",
                "commit": "c0ffee",
                "licence": "a licence",
                "licence_text": "where it stands",
                "authors": "someone",
                "files": {path: fetch_data.digest(content) for path, content in found.items()},
            }
            for name, found in files.items()
        },
        "categories": {
            "cookie": {"source": "cookie"},
            "screw_plate": {
                "source": "screws",
                "holes": {"008": [[430, 200]]},
                "good": {"train": ["007"], "test": ["101"]},
            },
            "screw_head": {"source": "screws", "missing": ["008_1"]},
            "ball_screw": {
                "source": "bsdata",
                "images": {"train/good": ["1_a"], "test/pitting": ["2_a"]},
            },
        },
    }
    for about in document["categories"].values():
        about["sha256"] = "what Pillow gives here is not known"
    for name, found in files.items():
        for path, content in found.items():
            file = tmp_path / "mirror" / "someone" / name / "c0ffee" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    listed = tmp_path / "sources.json"
    listed.write_text(json.dumps(document))
    mirror = (tmp_path / "mirror").as_uri()
    return [str(tmp_path / "data"), "--from", mirror, "--sources", str(listed)], tmp_path, listed


def set_digests(listed, data):
    document = json.loads(listed.read_text())
    for name, about in document["categories"].items():
        if (data / name).exists():
            about["sha256"] = fetch_data.tree_digest(data / name)
    listed.write_text(json.dumps(document))


def test_every_category_is_laid_out_and_can_be_opened(origin, capsys):
    arguments, tmp_path, listed = origin
    data = tmp_path / "data"
    for name in fetch_data.CATEGORIES:
        if name in fetch_data.STORED_ANEW:
            fetch_data.main([*arguments, "--only", name])
        else:
            with pytest.raises(SystemExit, match="other files than the published set"):
                fetch_data.main([*arguments, "--only", name])
    assert "not byte for byte" in capsys.readouterr().err
    set_digests(listed, data)
    fetch_data.main(arguments)
    assert capsys.readouterr().out.count("byte for byte the set") == 4
    found = {
        name: sorted(
            p.relative_to(data / name).as_posix() for p in (data / name).rglob("*.*") if p.is_file()
        )
        for name in fetch_data.CATEGORIES
    }
    assert found["screw_plate"] == [
        "ground_truth/missing_screw/008_mask.png",
        "test/good/101.jpg",
        "test/missing_screw/008.jpg",
        "train/good/007.jpg",
    ]
    assert found["ball_screw"] == [
        "ground_truth/pitting/2_a_mask.png",
        "test/pitting/2_a.jpg",
        "train/good/1_a.jpg",
    ]
    # Four screws of plate 7, three of plate 8, and four of plate 101 to measure with.
    counts = [sum(kind in p for p in found["screw_head"]) for kind in ("train/", "test/good/")]
    assert counts == [7, 4] and "ground_truth/missing/008_1_mask.png" in found["screw_head"]
    for name in fetch_data.CATEGORIES:
        category = open_category(data / name, require_masks=True)
        assert category.passed_over == [] and category.train and category.anomalous
    mask = load_mask(data / "cookie/ground_truth/broken/002_mask.png", (30, 20))
    assert mask.sum() == 8 and mask[5:7, 4:8].all()
    disc = load_mask(data / "screw_plate/ground_truth/missing_screw/008_mask.png", (789, 600))
    assert disc[200, 480] and not disc[200, 481] and abs(disc.sum() - np.pi * 2500) < 20
    head = load_mask(data / "screw_head/ground_truth/missing/008_1_mask.png", (256, 256))
    assert head[200 - 69, 430 - 305] and head.sum() == disc[69:325, 305:561].sum()
    polygon = load_mask(data / "ball_screw/ground_truth/pitting/2_a_mask.png", (20, 40))
    assert polygon.sum() == 11 * 5
    copied = tmp_path / "mirror/someone/screws/c0ffee" / TRAIN / "7_1111.jpg"
    assert (data / "screw_plate/train/good/007.jpg").read_bytes() == copied.read_bytes()
    credits = (data / "SOURCES.md").read_text()
    assert "someone/bsdata at c0ffee" in credits and not (data / ".fetched").exists()


def test_a_file_that_is_not_the_one_asked_for_stops_it(origin):
    arguments, tmp_path, _ = origin
    file = tmp_path / "mirror/someone/bsdata/c0ffee/data/01_2_a_crop_2.jpg"
    right = file.read_bytes()
    file.write_bytes(right + b"more")
    with pytest.raises(SystemExit, match=r"01_2_a_crop_2\.jpg: SHA-256 .*, expected"):
        fetch_data.main([*arguments, "--only", "ball_screw"])
    assert not (tmp_path / "data" / "ball_screw").exists()
    # What had arrived is kept: the next run does not ask for it again.
    (tmp_path / "mirror/someone/bsdata/c0ffee/data/01_1_a_crop_2.jpg").unlink()
    file.write_bytes(right)
    with pytest.raises(SystemExit, match="other files"):
        fetch_data.main([*arguments, "--only", "ball_screw"])
    assert (tmp_path / "data" / "ball_screw").exists()


def test_a_file_that_cannot_be_fetched_is_named(origin):
    arguments, tmp_path, _ = origin
    (tmp_path / "mirror/someone/cookie/c0ffee" / COOKIES / "mask-images/anomaly-2.png").unlink()
    with pytest.raises(SystemExit, match=r"anomaly-2\.png: cannot be fetched .*--from"):
        fetch_data.main([*arguments, "--only", "cookie"])


def test_the_list_holds_the_sets_that_the_tables_name():
    document = json.loads(fetch_data.SOURCES.read_text())
    plates, categories = document["categories"]["screw_plate"], document["categories"]
    counts = (len(plates["good"]["train"]), len(plates["good"]["test"]), len(plates["holes"]))
    assert counts == (23, 9, 113)
    assert [len(n) for n in categories["ball_screw"]["images"].values()] == [120, 50, 39]
    assert len(categories["screw_head"]["missing"]) == 134
    digests = [d for source in document["sources"].values() for d in source["files"].values()]
    assert all(len(d) == 64 for d in digests) and len(set(digests)) == len(digests)
    assert all(len(source["commit"]) == 40 for source in document["sources"].values())


def test_the_page_says_which_command_makes_which_table():
    root = fetch_data.SOURCES.parents[1]
    page = (root / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    results = root / "benchmarks" / "results"
    tables = {p.relative_to(results).as_posix() for p in results.rglob("*.md")}
    named = set(re.findall(r"\(\.\./benchmarks/results/([\w/.-]+)\)", page))
    missing = {t for t in tables if t not in named and str(Path(t).parent) not in named}
    assert not missing
    scripts = re.findall(r"python ((?:benchmarks|tools)/\w+\.py)", page)
    assert len(scripts) > 6 and all((root / script).is_file() for script in scripts)
