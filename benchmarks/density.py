"""What each part of the density is worth: figures with one part changed at a time.

    python benchmarks/density.py --data DIR [--categories a,b] [--angle 45] [--again]

``DIR`` holds categories in the MVTec AD layout. Each is fitted without training (``epochs=0``: what
fine alignment learns does not enter here) and scored once for each row. Writes a table and JSON
after each; rows that are there are kept.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastalign import FYD, FYDConfig
from fastalign.bench.protocol import Jitter, figures, read_category, scores_of
from fastalign.metrics import image_metrics

RESULTS = Path(__file__).parent / "results"
PADIM: dict[str, Any] = {
    "strides": (4, 8, 16),
    "reduction": "draw",
    "channels": 100,
    "prior": 0.0,
    "storage": "float32",
}
ROWS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "PaDiM's: 100 drawn channels, strides 4, 8, 16": PADIM,
    "strides 4, 8, 16": {"strides": (4, 8, 16)},
    "each location by itself": {"neighbours": 0},
    "at most 16 directions": {"rank": 16},
    "whole covariances, by themselves": {"rank": 0},
    "prior of 10": {"prior": 10.0},
    "prior learned": {"prior": None},
    "means as they are": {"mean_prior": "own"},
    "means drawn to neighbours": {"mean_prior": "neighbours"},
    "means drawn to that of the map": {"mean_prior": "map"},
    "directions in 16 bits": {"storage": "float16"},
    "without calibration": {"calibrate": False},
}
# Share of a map whose mean is the other score of an image.
TOP = 0.01


def measure(images: Any, options: dict[str, Any], seed: int) -> dict[str, float]:
    """Figures of one fit."""
    model = FYD(FYDConfig(aspect=images.aspect, epochs=0, **options))
    begin = time.perf_counter()
    model.fit(images.train, images.validation, seed=seed)
    seconds = time.perf_counter() - begin
    with torch.inference_mode():
        maps = torch.cat([model(batch)[1] for batch in images.test.split(8)])
    scores = scores_of(maps)
    found = figures(scores.numpy(), maps, images)
    known = maps.flatten(1).nan_to_num(0.0)
    top = known.topk(max(1, int(TOP * known.shape[1])), 1).values.mean(1)
    # As the largest value of one that is not judged.
    top = torch.where(maps.isnan().flatten(1).all(1), scores, top)
    names = [str(index) for index in range(len(top))]
    labels = torch.from_numpy(np.asarray(images.labels)) > 0
    limit = float(model.image_threshold)
    tensors = model.density.state_dict().values()
    return {
        "image_auroc": found["image_auroc"],
        "pixel_auroc": found["pixel_auroc"],
        "aupro_30": found["aupro_30"],
        "image_auroc_top": image_metrics(top.numpy(), images.labels, names)["image_auroc"],
        "false_alarms": float((scores[~labels] > limit).float().mean()),
        "missed": float((scores[labels] <= limit).float().mean()),
        "megabytes": sum(x.numel() * x.element_size() for x in tensors) / 1e6,
        "fit_s": seconds,
    }


def page(found: dict[str, Any]) -> str:
    """The table."""
    lines = [
        "# What each part of the density is worth",
        "",
        "`python benchmarks/density.py`: image AUROC / pixel AUROC / AUPRO at FPR 0.3, then false",
        "alarms and misses at the stored threshold; one part changed at a time. In brackets the",
        f"image AUROC of the mean of the largest {TOP:.0%} of the map in place of its maximum.",
        f"No training; seed {found['seed']}, turned by up to {found['angle']:g} degrees.",
        "",
        "| | " + " | ".join(found["figures"]) + " | density |",
        "|---|" + "---|" * (len(found["figures"]) + 1),
    ]
    for row in ROWS:
        cells, size = [], []
        for category in found["figures"].values():
            one = category.get(row)
            if one is None:
                cells.append("-")
                continue
            size.append(one["megabytes"])
            image = f"{one['image_auroc']:.3f} ({one['image_auroc_top']:.3f})"
            pixels = f"{one['pixel_auroc']:.4f} / {one['aupro_30']:.3f}"
            cells.append(f"{image} / {pixels}; {one['false_alarms']:.0%}, {one['missed']:.0%}")
        if size:
            sizes = f"{min(size):.0f} to {max(size):.0f} MB"
            lines.append(f"| {row} | " + " | ".join(cells) + f" | {sizes} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--categories", default="screw_plate,screw_head,ball_screw,cookie")
    parser.add_argument("--angle", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="density")
    parser.add_argument("--again", action="store_true", help="measure all rows anew")
    given = parser.parse_args()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    jitter = Jitter(given.angle, 0.0) if given.angle else Jitter()
    found: dict[str, Any] = {"seed": given.seed, "angle": given.angle, "figures": {}}
    path = RESULTS / f"{given.name}.json"
    if path.exists():
        earlier = json.loads(path.read_text())
        if (earlier["seed"], earlier["angle"]) == (given.seed, given.angle) and not given.again:
            found = earlier
    for category in given.categories.split(","):
        images = read_category(given.data / category, (256, 256), jitter, given.seed)
        rows = found["figures"].setdefault(category, {})
        for row, options in ROWS.items():
            if row in rows:
                continue
            rows[row] = measure(images, options, given.seed)
            print(category, row, json.dumps(rows[row]), flush=True)
            path.write_text(json.dumps(found, indent=1) + "\n")
            (RESULTS / f"{given.name}.md").write_text(page(found))


if __name__ == "__main__":
    main()
