"""Regions in the form of COCO's instances, which annotation tools and its API read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fastalign.regions.contour import Ring

CATEGORY = {"id": 1, "name": "anomaly", "supercategory": "anomaly"}


def annotation(
    region: dict[str, Any], number: int, image: int, size: tuple[int, int]
) -> dict[str, Any]:
    """One region as an annotation.

    Its segmentation is polygons, which tools can edit; of a region with a hole, which polygons of
    COCO cannot have, it is the run lengths of its pixels, uncompressed. Both are exact.

    Args:
        region: as :meth:`fastalign.regions.Region.to_json` gives it.
        number: of the annotation in its file.
        image: the ``id`` of its image.
        size: height and width of the photograph.
    """
    place = region["photograph"]
    contour: list[Ring] = place["contour"]
    segmentation: Any
    if any(_signed_area(ring) < 0 for ring in contour):
        segmentation = {"size": list(size), "counts": run_lengths(contour, size)}
    else:
        segmentation = [[value for point in ring for value in point] for ring in contour]
    return {
        **({"roi": region["roi"]} if "roi" in region else {}),
        "id": number,
        "image_id": image,
        "category_id": CATEGORY["id"],
        "bbox": place["box"],
        "area": place["area"],
        "segmentation": segmentation,
        "iscrowd": 0,
        "score": region["score"],
        "share_of_part": region["share_of_part"],
    }


def run_lengths(contour: list[Ring], size: tuple[int, int]) -> list[int]:
    """The pixels whose centres lie inside of rings, as COCO counts them: down the columns, from the
    left, lengths of turns outside and inside, beginning outside.

    Args:
        contour: rings whose edges are upright or level; inside is what an odd number encloses.
        size: height and width.
    """
    height, width = size
    # Down a column a level edge changes the side: its place is where the count turns.
    places: list[npt.NDArray[np.int64]] = []
    for ring in contour:
        for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True):
            if y0 == y1:
                first, last = sorted((math.ceil(x0 - 0.5), math.ceil(x1 - 0.5)))
                columns = np.arange(max(0, first), min(width, last), dtype=np.int64)
                row = min(max(math.ceil(y0 - 0.5), 0), height)
                places.append(columns * height + row)
    turns, times = np.unique(np.concatenate(places), return_counts=True)
    # Two turns at one place, as where a column ends inside and the next begins so, are none.
    ends = [0, *turns[times % 2 == 1].tolist(), height * width]
    return [after - before for before, after in zip(ends, ends[1:], strict=False)]


def _signed_area(ring: Ring) -> float:
    x, y = np.asarray(ring, dtype=np.float64).T
    return 0.5 * float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))
