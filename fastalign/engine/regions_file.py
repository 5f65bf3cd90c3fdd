"""The regions of a run's images as files: a line of JSON for each image, and COCO's form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastalign.engine.lines import Lines
from fastalign.engine.results import finite
from fastalign.engine.table import Row, encode
from fastalign.io import atomic_write
from fastalign.regions import CONNECTIVITY
from fastalign.regions.coco import CATEGORY, annotation

REGIONS = "regions.jsonl"
COCO = "regions.coco.json"


class RegionsFile:
    """``regions.jsonl``, which grows with the rows of a table, and COCO's form of it in the end.

    Args:
        folder: where both are written.
        pixel_threshold: in force; None: there is none, and no image has a region.
        least_area: pixels of a photograph below which regions are left out.

    Raises:
        InputError: they cannot be written.
    """

    def __init__(self, folder: Path, pixel_threshold: float | None, least_area: float) -> None:
        self._folder = folder
        self._about = {
            "pixel_threshold": pixel_threshold,
            "connectivity": CONNECTIVITY,
            "least_area": least_area,
        }
        self._lines = Lines(folder / REGIONS)

    def __enter__(self) -> RegionsFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._lines.close()

    def add(self, row: Row) -> None:
        """The line of one image; of one that could not be read there is none."""
        if row.size is not None:
            self._lines.add(encode(_text(with_regions(row)) + "\n"))

    def write_coco(self, folder: Path | None = None) -> None:
        """COCO's form of all lines so far; with ``folder`` both files are written there.

        Images stream, so that memory does not grow with their number.

        Raises:
            InputError: it cannot be written.
        """
        target = folder or self._folder
        if folder is not None:
            with atomic_write(folder / REGIONS) as file, open(self._lines.path, "rb") as lines:
                for line in lines:
                    file.write(line)
        with atomic_write(target / COCO) as file:
            for piece in _coco(self._lines.path, self._about):
                file.write(encode(piece))


def with_regions(row: Row) -> dict[str, Any]:
    """What is said of an image that was read: its verdict, its size and its regions, JSON-able."""
    assert row.size is not None
    height, width = row.size
    return finite(
        {
            "path": row.path,
            "verdict": row.verdict.text,
            "score": row.score,
            "width": width,
            "height": height,
            "regions": [region.to_json() for region in row.regions],
        }
    )


def _text(document: Any) -> str:
    return json.dumps(document, allow_nan=False)


def _read(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        yield from map(json.loads, file)


def _coco(path: Path, about: dict[str, Any]) -> Iterator[str]:
    """The document piece by piece; the lines are read twice, for images and for annotations."""
    from fastalign.engine.environment import versions

    made = {"description": f"regions found by fastalign {versions()['fastalign']}", **about}
    yield f'{{"info": {_text(made)},\n"licenses": [],\n"categories": [{_text(CATEGORY)}],\n'
    yield '"images": ['
    for number, item in enumerate(_read(path), 1):
        image = {"id": number, "file_name": item["path"]}
        image |= {name: item[name] for name in ("width", "height", "verdict", "score")}
        yield f"{',' if number > 1 else ''}\n{_text(image)}"
    yield '\n],\n"annotations": ['
    count = 0
    for number, item in enumerate(_read(path), 1):
        for region in item["regions"]:
            count += 1
            size = item["height"], item["width"]
            yield f"{',' if count > 1 else ''}\n{_text(annotation(region, count, number, size))}"
    yield "\n]}\n"
