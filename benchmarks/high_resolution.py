"""Fit and score at 256, 512, 1024 and 2048 pixels, against anomalib's PaDiM.

    python benchmarks/high_resolution.py --data DIR [--tasks small large growth giant resolution]

DIR holds the category ball_screw. Both models: EfficientNet-Lite0, blocks 1, 2 and 4, 100 channels,
the same weights, images and loader. Each contestant runs in a process of its own, whose peak memory
is the whole of it, one after the other in this run. Needs anomalib, and 20 GB for `large`. Writes
results/high_resolution.json, .md and .png, task by task.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from fastalign import FYD, FYDConfig, artifact
from fastalign.bench import contestants
from fastalign.data import ImageDataset, iterate_batches, load_masks, open_category
from fastalign.engine.environment import peak_rss_mb

RESULTS = Path(__file__).parent / "results"
CATEGORY = "ball_screw"
CHANNELS = 100
GB = 1e9


# Contestants: each in a process of its own ---------------------------------------------------


class Ours:
    """The model; `options` are those of its configuration. `compiled`: scores in torch.compile."""

    def __init__(
        self, size: int, options: dict[str, Any], budget: int | None, compiled: bool
    ) -> None:
        self.size, self.budget, self.compiled = size, budget, compiled
        self.model = FYD(FYDConfig(image_size=(size, size), **options))
        self.gaussian_s = 0.0
        self.fitted = self.model
        density = self.model.density.gaussians
        for name in ("update", "finalize"):
            setattr(density, name, self._timed(getattr(density, name)))

    def _timed(self, work: Any) -> Any:
        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            result = work(*arguments, **options)
            self.gaussian_s += time.perf_counter() - began
            return result

        return timed

    def fit(self, train: ImageDataset) -> None:
        self.model.fit(train, memory_budget=self.budget)

    def score(self, image: torch.Tensor) -> torch.Tensor:
        return self.fitted(image)[1]

    def stored(self, folder: Path) -> int:
        path = folder / "model.safetensors"
        artifact.save(self.model, path)
        self.fitted = artifact.load(path)
        if self.compiled:
            self.fitted.compile(dynamic=False)
        return path.stat().st_size


class Padim(contestants.Padim):
    def __init__(self, *_: Any) -> None:
        super().__init__(CHANNELS)

    def fit(self, train: ImageDataset) -> None:
        size = 16 if train.image_size[0] < 512 else 1
        self.learn(batch.images for batch in iterate_batches(train, size))

    def stored(self, folder: Path) -> int:
        return self.stored_bytes()


def run(job: dict[str, Any]) -> dict[str, Any]:
    """One contestant: fit, store, measure one image at a time, and the figures if asked for."""
    torch.set_num_threads(job["threads"])
    size = job["size"]
    category = open_category(Path(job["data"]) / CATEGORY)
    chosen = {"padim": Padim, "ours": Ours}[job["who"]]
    contestant = chosen(size, job.get("options", {}), job.get("budget"), job.get("compiled", False))
    train = ImageDataset(category.train[: job["images"]], (size, size))
    while len(train) < job["images"]:  # the same photographs again: memory, not accuracy
        more = category.train[: job["images"] - len(train)]
        train = ImageDataset([*train.samples, *more], (size, size))
    found: dict[str, Any] = {}
    with torch.inference_mode():
        began = time.perf_counter()
        contestant.fit(train)
        found["fit_s"] = time.perf_counter() - began
        found["gaussian_s"] = contestant.gaussian_s
        found["fit_peak"] = 1e6 * (peak_rss_mb()[0] or 0)
        with tempfile.TemporaryDirectory() as folder:
            found["stored"] = contestant.stored(Path(folder))
            if "score_budget" in job:
                return found | score_apart(Path(folder) / "model.safetensors", job)
            test = ImageDataset(category.test, (size, size))
            image = next(iterate_batches(test, 1, indices=[0])).images
            contestant.score(image)
            times = []
            for _ in range(job["rounds"]):
                began = time.perf_counter()
                contestant.score(image)
                times.append(1000 * (time.perf_counter() - began))
            found["ms"] = median(times)
            if job["figures"]:
                found |= figures(contestant, test, size)
        found["peak"] = 1e6 * (peak_rss_mb()[0] or 0)
    return found


def score_apart(model: Path, job: dict[str, Any]) -> dict[str, Any]:
    """One image within a budget, in a process that has nothing but the stored model."""
    given = json.dumps(
        {
            "model": str(model),
            "data": job["data"],
            "budget": job["score_budget"],
            "rounds": job["rounds"],
            "threads": job["threads"],
        }
    )
    done = subprocess.run(
        [sys.executable, __file__, "--score", given], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def score_stored(job: dict[str, Any]) -> dict[str, Any]:
    """Load, plan, score; the peak of all of it."""
    torch.set_num_threads(job["threads"])
    model = artifact.load(job["model"])
    plan = model.limit_memory(job["budget"])
    category = open_category(Path(job["data"]) / CATEGORY)
    test = ImageDataset(category.test, model.config.image_size)
    image = next(iterate_batches(test, 1, indices=[0])).images
    times = []
    with torch.inference_mode():
        for _ in range(job["rounds"] + 1):
            began = time.perf_counter()
            model(image)
            times.append(1000 * (time.perf_counter() - began))
    peak = 1e6 * (peak_rss_mb()[0] or 0)
    return {"ms": median(times[1:]), "peak": peak, "planned": plan.total, "plan": plan.describe()}


def figures(contestant: Any, test: ImageDataset, size: int) -> dict[str, float]:
    """Image and pixel figures over the test images, at the model's size."""
    # Here, since what it loads has no part in a fit.
    from fastalign.metrics import PixelMetrics, image_metrics

    pixels = PixelMetrics((size, size))
    scores, labels, names = [], [], []
    for index, batch in enumerate(iterate_batches(test, 1)):
        sample = test.samples[index]
        # What was not compared ranks lowest.
        scored = contestant.score(batch.images)[0].nan_to_num(nan=0.0)
        mask = np.zeros((size, size), dtype=bool)
        if sample.mask_paths:
            mask = load_masks(sample.mask_paths, image_path=sample.path, output_size=(size, size))
        pixels.update(scored, mask, sample.path.name)
        scores.append(float(scored.max()))
        labels.append(sample.label)
        names.append(sample.path.name)
    found = {**image_metrics(np.array(scores), np.array(labels), names), **pixels.compute()}
    return {key: float(found[key]) for key in ("image_auroc", "pixel_auroc", "aupro_30")}


# Tasks ---------------------------------------------------------------------------------------

NONE = {"align": "none"}
HALF = {"align": "none", "storage": "bfloat16"}
ALIGNED = {"align": "ica+fca", "skip": False, "family": "rotation_translation", "epochs": 1}
TASKS: dict[str, list[dict[str, Any]]] = {
    "small": [
        {"name": "padim 256", "who": "padim", "size": 256, "rounds": 40},
        {"name": "256", "who": "ours", "size": 256, "options": NONE, "rounds": 40},
        {
            "name": "256 compiled",
            "who": "ours",
            "size": 256,
            "options": NONE,
            "compiled": True,
            "rounds": 40,
        },
        {"name": "256 aligned", "who": "ours", "size": 256, "options": ALIGNED, "rounds": 40},
        {"name": "256 bfloat16", "who": "ours", "size": 256, "options": HALF, "rounds": 40},
    ],
    "large": [
        {"name": "padim 1024", "who": "padim", "size": 1024, "rounds": 7},
        {"name": "1024 bfloat16", "who": "ours", "size": 1024, "options": HALF, "rounds": 7},
        {"name": "1024", "who": "ours", "size": 1024, "options": NONE, "rounds": 7},
        {
            "name": "1024 float16",
            "who": "ours",
            "size": 1024,
            "options": {"align": "none", "storage": "float16"},
            "rounds": 7,
        },
    ],
    "growth": [
        {
            "name": f"{size}, {images} images",
            "who": "ours",
            "size": size,
            "options": NONE,
            "images": images,
            "rounds": 1,
            "figures": False,
        }
        for size in (256, 512)
        for images in (20, 200)
    ],
    "giant": [
        {
            "name": "2048 in 4 GB",
            "who": "ours",
            "size": 2048,
            "options": HALF,
            "images": 8,
            "budget": 4_800_000_000,
            "score_budget": 4_000_000_000,
            "rounds": 5,
            "figures": False,
        }
    ],
    "resolution": [
        {"name": "padim 512", "who": "padim", "size": 512, "rounds": 15},
        {"name": "512", "who": "ours", "size": 512, "options": NONE, "rounds": 15},
        {"name": "512 bfloat16", "who": "ours", "size": 512, "options": HALF, "rounds": 15},
    ],
}


def table(found: dict[str, dict[str, Any]]) -> str:
    """What was measured, then the ratios asked about."""
    lines = [
        "| run | fit, s | Gaussians, s | peak of the fit, GB | stored, GB | one image, ms | "
        "image AUROC | pixel AUROC | AUPRO |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        shown = [
            f"{row['fit_s']:.1f}",
            # Of a fit in bands it is not taken apart.
            f"{row['gaussian_s']:.2f}" if row["gaussian_s"] else "-",
            f"{row['fit_peak'] / GB:.2f}",
            f"{row['stored'] / GB:.3f}",
            f"{row['ms']:.1f}",
        ]
        shown += [
            f"{row[key]:.3f}" if key in row else "-"
            for key in ("image_auroc", "pixel_auroc", "aupro_30")
        ]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    ratios = [
        ("one image, 256", "256", "padim 256", "ms"),
        ("one image, 256, compiled", "256 compiled", "padim 256", "ms"),
        ("one image, 256, ICA and FCA", "256 aligned", "padim 256", "ms"),
        ("fit, 256", "256", "padim 256", "fit_s"),
        ("Gaussians alone, 256", "256", "padim 256", "gaussian_s"),
        ("fit, 1024", "1024 bfloat16", "padim 1024", "fit_s"),
        ("peak, 1024", "1024 bfloat16", "padim 1024", "fit_peak"),
        ("one image, 1024", "1024 bfloat16", "padim 1024", "ms"),
    ]
    lines += ["", "| against PaDiM in this run | ratio |", "|---|---|"]
    for name, ours, theirs, key in ratios:
        if ours in found and theirs in found:
            lines.append(f"| {name} | 1 / {found[theirs][key] / found[ours][key]:.1f} |")
    giant = found.get("2048 in 4 GB")
    if giant is not None:
        lines.append(
            f"| 2048, one image in a process of its own, 4 GB allowed | peak "
            f"{giant['peak'] / GB:.2f} GB, planned {giant['planned'] / GB:.2f} GB |"
        )
    for size in (256, 512):
        few, many = f"{size}, 20 images", f"{size}, 200 images"
        if few in found and many in found:
            growth = found[many]["fit_peak"] / found[few]["fit_peak"] - 1
            lines.append(f"| peak of the fit, {size}, 200 images against 20 | {growth:+.1%} |")
    lines += [
        "",
        f"{CATEGORY}: fits of 120 photographs unless it says so, read from files, no validation "
        "images; all test photographs, at the model's size. PaDiM is anomalib's, `stored` its "
        "state in memory. Memory is the whole process.",
    ]
    return "\n".join(lines)


def plot(found: dict[str, dict[str, Any]]) -> None:
    """What resolution buys."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kinds = {
        "PaDiM (anomalib)": "padim {}",
        "fastalign, float32": "{}",
        "fastalign, bfloat16": "{} bfloat16",
    }
    shown = (
        ("image_auroc", 1, "image AUROC", False),
        ("aupro_30", 1, "AUPRO 0.30", False),
        ("ms", 1, "one image, ms", True),
        ("fit_peak", 1 / GB, "peak memory of the fit, GB", True),
    )
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.8), layout="constrained")
    for axis, (key, unit, title, logarithmic) in zip(axes, shown, strict=True):
        for (label, pattern), marker in zip(kinds.items(), "os^", strict=True):
            sizes = [size for size in (256, 512, 1024) if pattern.format(size) in found]
            values = [found[pattern.format(size)][key] * unit for size in sizes]
            axis.plot([str(size) for size in sizes], values, marker=marker, label=label)
        if logarithmic:
            axis.set_yscale("log")
        axis.set_title(title)
        axis.set_xlabel("image size")
        axis.grid(alpha=0.3, which="both")
    figure.suptitle(f"{CATEGORY}: what resolution buys and costs")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(RESULTS / "high_resolution.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--score", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(run(json.loads(options.job))))
        return
    if options.score:
        print(json.dumps(score_stored(json.loads(options.score))))
        return
    if options.data is None:
        parser.error("--data is needed")
    # Here, since what it loads has no part in the memory of a contestant.
    from protocol import write

    path = RESULTS / "high_resolution.json"
    found = json.loads(path.read_text())["runs"] if path.exists() else {}
    for task in options.tasks:
        for row in TASKS[task]:
            job = {"images": 120, "figures": True, **row}
            job |= {"data": str(options.data), "threads": options.threads}
            command = [sys.executable, __file__, "--job", json.dumps(job)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode != 0:
                sys.exit(f"{row['name']} ended with exit code {done.returncode}")
            found[row["name"]] = json.loads(done.stdout.splitlines()[-1])
            print(row["name"], found[row["name"]], flush=True)
            order = [one["name"] for rows in TASKS.values() for one in rows]
            found = {name: found[name] for name in order if name in found}
            write("high_resolution", {"category": CATEGORY, "runs": found}, table(found))
    plot(found)


if __name__ == "__main__":
    main()
