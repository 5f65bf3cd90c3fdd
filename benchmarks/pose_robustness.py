"""How figures fall with pose jitter: no alignment, +ICA, +FCA, +FA, all, the paper's plain ICA
without the teacher, and a position-free nearest neighbour control. Same backbone, same images.

    python benchmarks/pose_robustness.py --data DIR [--category screw_plate] [--seeds 0]

Writes results/pose_robustness.json, .md and .png (with matplotlib).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from protocol import (
    FIGURES,
    RESULTS,
    Images,
    Jitter,
    figures,
    fit_and_measure,
    over_seeds,
    read_category,
    write,
)
from torch import Tensor
from torch.nn import functional as F

from fastalign import FYD, FYDConfig
from fastalign.nn import smooth

JITTERS = (
    Jitter(),
    Jitter(20, 0.08),
    Jitter(45, 0.1),
    Jitter(180, 0.1),
)
# Every part forced on, so that each shows what it does and not what skipping makes of it.
METHODS: dict[str, dict[str, Any]] = {
    "no alignment": {"align": "none"},
    "+ICA": {"align": "ica", "skip": False},
    "+FCA": {"align": "fca", "skip": False},
    "+FA": {"align": "fa"},
    "all": {"align": "all"},
    "plain ICA, no teacher": {"align": "ica", "teacher": False, "skip": False, "epochs": 50},
}
CONTROL = "nearest neighbour, position-free"
_BANK = 20_000


def nearest_neighbour(images: Images, seed: int) -> dict[str, Any]:
    """The control: distance of each location's features to the nearest of 20 000 drawn from all
    locations of the training images, as in PatchCore without its greedy selection."""
    size = tuple(images.train.shape[2:])
    config = FYDConfig(align="none", reduction="draw", strides=(4, 8, 16), image_size=size)
    model = FYD(config)

    def vectors(batch: Tensor) -> Tensor:
        # PatchCore's neighbourhood of 3 x 3.
        described = model.density.describe(model.features(batch).stages)
        return F.avg_pool2d(described, 3, 1, 1).permute(0, 2, 3, 1)

    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        every = torch.cat([vectors(batch).flatten(0, 2) for batch in images.train.split(16)])
        bank = every[torch.randperm(len(every), generator=generator)[:_BANK]]
        maps = []
        for batch in images.test.split(8):
            found = vectors(batch)
            near = torch.cat(
                [torch.cdist(part, bank).amin(1) for part in found.flatten(0, 2).split(4096)]
            )
            near = near.view(found.shape[:3])
            wide = F.interpolate(near[:, None], images.test.shape[2:], mode="bilinear")[:, 0]
            maps.append(smooth(wide, 4.0))
    every_map = torch.cat(maps)
    return figures(every_map.amax((1, 2)).numpy(), every_map, images)


def table(rows: list[dict[str, Any]], category: str, seeds: list[int]) -> str:
    """Markdown, one line per method, image AUROC / pixel AUROC by jitter."""
    lines = [
        f"| {category} | " + " | ".join(row["jitter"] for row in rows) + " |",
        "|---|" + "---|" * len(rows),
    ]
    for method in rows[0]["methods"]:
        cells = [
            " / ".join(f"{row['methods'][method][f]:.3f}" for f in FIGURES[:2]) for row in rows
        ]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Image AUROC / pixel AUROC, 256 x 256, training and test photographs jittered alike, mean "
        f"over seeds {', '.join(map(str, seeds))}. Single parts are forced on; `all` decides by "
        "itself.",
    ]
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], category: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.8), sharex=True, layout="constrained")
    names = [row["jitter"].split(",")[0] for row in rows]
    styles = ("o", "s", "^", "v", "D", "P", "X")
    for axis, key, title in zip(axes, FIGURES[:2], ("image AUROC", "pixel AUROC"), strict=True):
        for method, marker in zip(rows[0]["methods"], styles, strict=False):
            values = [row["methods"][method][key] for row in rows]
            width = 2.4 if method == "all" else 1.4
            axis.plot(names, values, marker=marker, linewidth=width, markersize=6, label=method)
        axis.set_title(title)
        axis.set_xlabel("rotation of training and test photographs")
        axis.grid(alpha=0.3)
    figure.suptitle(f"{category}: figures against pose jitter")
    # Below the axes: curves may run anywhere inside them.
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(RESULTS / "pose_robustness.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--category", default="screw_plate")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    for jitter in JITTERS:
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in (*METHODS, CONTROL)}
        for seed in options.seeds:
            images = read_category(options.data / options.category, (256, 256), jitter, seed)
            for name, choice in METHODS.items():
                config = FYDConfig(aspect=images.aspect, **choice)
                runs[name].append(fit_and_measure(images, config, seed)[1])
                print(jitter.label, name, runs[name][-1], flush=True)
            runs[CONTROL].append(nearest_neighbour(images, seed))
            print(jitter.label, CONTROL, runs[CONTROL][-1], flush=True)
        means = {
            name: {figure: over_seeds(found, figure) for figure in FIGURES}
            for name, found in runs.items()
        }
        rows.append({"jitter": jitter.label, "methods": means, "runs": runs})
        write(
            "pose_robustness",
            {"category": options.category, "rows": rows},
            table(rows, options.category, options.seeds),
        )
    plot(rows, options.category)


if __name__ == "__main__":
    main()
