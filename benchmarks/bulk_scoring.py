"""Throughput of bulk scoring by workers, one thread each, against one process without Ray.

    python benchmarks/bulk_scoring.py [--model FILE] [--images 580] [--workers 1 2] [--turns 3]

The images are the shipped test photographs, linked as often as needed; no pictures are written.
Without --model one is fitted on the shipped training photographs first. Runs with different
numbers of workers take turns in one session of Ray. Writes results/bulk_scoring.json and .md.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.parquet as pq
import ray
import torch
from protocol import write

from fastalign import artifact
from fastalign.engine import fit_category, predict_paths
from fastalign.engine.demo import demo_category
from fastalign.engine.environment import package_version
from fastalign.integrations.ray import score_collection


def link(category: Path, folder: Path, count: int) -> None:
    """``count`` links in ``folder`` to the test photographs."""
    photographs = sorted((category / "test").rglob("*.jpg"))
    folder.mkdir()
    for index, photograph in enumerate(islice(cycle(photographs), count)):
        (folder / f"{index:06d}{photograph.suffix}").symlink_to(photograph)


def local(model_file: Path, images: Path, out: Path) -> dict[str, float]:
    """One process, one thread, no Ray; its seconds with the loading of the model."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    model = artifact.load(model_file)
    loaded = time.perf_counter()
    count = len(predict_paths(model, images, out, outputs=[]).images)
    ended = time.perf_counter()
    return {"images_per_s": count / (ended - loaded), "seconds": ended - began}


def bulk(model_file: Path, images: Path, out: Path, workers: int) -> dict[str, float]:
    """One run. Its rate is taken from the times at which the workers finished their parts: when
    each has finished one, to the end, so that no start counts and the idle end does."""
    result = score_collection(model_file, images, out, workers=workers)
    parts = [(path.stat().st_mtime_ns, path) for path in result.scores.iterdir()]
    times, paths = zip(*sorted(parts), strict=True)
    count = sum(pq.read_metadata(path).num_rows for path in paths[workers:])
    rate = count / (times[-1] - times[workers - 1]) * 1e9
    return {"images_per_s": rate, "seconds": result.seconds}


def equal(out: Path, local_out: Path) -> bool:
    """Whether an output has the scores of the process without Ray, bit for bit."""
    rows = pq.read_table(out / "scores").sort_by("index").to_pylist()
    with (local_out / "scores.csv").open(newline="") as file:
        wanted = [(row["path"], float(row["score"])) for row in csv.DictReader(file)]
    return [(row["path"], row["score"]) for row in rows] == wanted


def table(rows: dict[str, dict[str, Any]], images: int, turns: int) -> str:
    one = rows["1 worker"]
    lines = ["| | images per s | of one worker | with start, s | scores |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        ratio = row["images_per_s"] / one["images_per_s"]
        lines.append(
            f"| {name} | {row['images_per_s']:.1f} | {ratio:.2f} | {row['seconds']:.1f} | "
            f"{'equal bit for bit' if row['equal'] else 'DIFFERENT'} |"
        )
    lines.append(
        f"\n{images} photographs of 304 x 400 px, model at 256 x 256 with all defaults, one thread "
        f"for each worker, batch size 1, no pictures; median of {turns} turns, one run without "
        "Ray. Images per second from when each worker has finished a part to the end; seconds with "
        "the start of the workers (loading torch and the model), without that of Ray."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--images", type=int, default=580)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    if 1 not in options.workers:
        parser.error("--workers needs 1, to which the others are compared")
    with tempfile.TemporaryDirectory() as temporary, demo_category() as category:
        folder = Path(temporary)
        model_file = options.model or folder / "model.safetensors"
        if options.model is None:
            fit_category(category, model_file)
        images = folder / "images"
        link(category, images, options.images)
        local_row = local(model_file, images, folder / "local")
        print(f"no Ray: {local_row}", file=sys.stderr)
        runs: dict[int, list[dict[str, float]]] = {workers: [] for workers in options.workers}
        same = dict.fromkeys(options.workers, True)
        ray.init(
            address="local",
            num_cpus=max(options.workers),
            object_store_memory=80 * 2**20,
            include_dashboard=False,
        )
        for turn in range(options.turns):
            for workers in options.workers:
                out = folder / f"{workers}-{turn}"
                runs[workers].append(bulk(model_file, images, out, workers))
                same[workers] &= equal(out, folder / "local")
                print(f"turn {turn}, workers {workers}: {runs[workers][-1]}", file=sys.stderr)
        ray.shutdown()
    rows: dict[str, dict[str, Any]] = {"one process, no Ray": {**local_row, "equal": True}}
    for workers, measured in runs.items():
        name = f"{workers} worker{'s' if workers > 1 else ''}"
        rows[name] = {
            key: median(row[key] for row in measured) for key in ("images_per_s", "seconds")
        }
        rows[name] |= {"equal": same[workers], "runs": measured}
    packages = {name: package_version(name) for name in ("ray", "pyarrow")}
    text = table(rows, options.images, options.turns)
    text += "\n" + ", ".join(f"{name} {value}" for name, value in packages.items()) + "."
    write("bulk_scoring", {"images": options.images, "packages": packages, "rows": rows}, text)
    print(text)


if __name__ == "__main__":
    main()
