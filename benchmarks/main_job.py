"""The main job's figures: fit on good photographs, score the others, means over seeds.

    python benchmarks/main_job.py --data DIR [--seeds 0 1 2] [--rows screw_plate]

DIR holds the categories screw_plate, ball_screw, screw_head and cookie. Each row is measured
unaligned and with the defaults, on the same images. Writes results/main_job.json and .md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from protocol import (
    FIGURES,
    Jitter,
    alternate,
    fit_and_measure,
    over_seeds,
    read_category,
    spread,
    write,
)

from fastalign import FYD, FYDConfig

MISTAKES = ("false_alarms", "missed")
ROWS = (
    ("screw_plate", Jitter()),
    ("screw_plate", Jitter(20, 0.08)),
    ("screw_plate", Jitter(45, 0.1)),
    ("screw_plate", Jitter(180, 0.1)),
    ("ball_screw", Jitter()),
    ("ball_screw", Jitter(20, 0.08)),
    ("screw_head", Jitter()),
    ("cookie", Jitter()),
)


def measure(
    data: Path, name: str, jitter: Jitter, seeds: list[int], options: dict[str, Any]
) -> dict[str, Any]:
    """One row of the table; ``options`` of the model are those of both columns."""
    size = options["image_size"]
    row: dict[str, Any] = {"data": name, "jitter": jitter.label}
    runs: dict[str, list[dict[str, Any]]] = {"unaligned": [], "aligned": []}
    for seed in seeds:
        images = read_category(data / name, size, jitter, seed)
        for kind, align in (("unaligned", "none"), ("aligned", "all")):
            config = FYDConfig(**options, align=align, aspect=images.aspect)
            model, found = fit_and_measure(images, config, seed)
            runs[kind].append(found)
            print(name, jitter.label, kind, seed, found, flush=True)
        if seed == seeds[0]:
            row["ms"] = one_image(model, images.test[:1])
    row["runs"] = runs
    for kind, found in runs.items():
        row[kind] = {name: over_seeds(found, name) for name in (*MISTAKES, *FIGURES, "fit_s")}
    return row


def one_image(model: FYD, image: torch.Tensor) -> dict[str, float]:
    """Milliseconds of aligning, of the backbone alone and of everything, for one image."""
    with torch.inference_mode():
        return alternate(
            {
                "align": lambda: model.align(image),
                "backbone": lambda: model.features.backbone(image),
                "score": lambda: model(image),
            }
        )


def table(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """Markdown: false alarms and misses, then image AUROC / pixel AUROC / AUPRO at 0.3."""
    lines = [
        "| data | poses | false alarms, missed | unaligned | aligned | chosen | "
        "aligning / backbone | one image | fit |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            " / ".join(f"{row[kind][f]:.3f}" for f in FIGURES)
            + spread(row["runs"][kind], FIGURES[0])
            for kind in ("unaligned", "aligned")
        ]
        chosen = sorted({run["alignment"] for run in row["runs"]["aligned"]})
        wrong = ", ".join(f"{100 * row['aligned'][name]:.0f} %" for name in MISTAKES)
        ms = row["ms"]
        ratio = "-" if chosen == ["no alignment"] else f"{ms['align'] / ms['backbone']:.2f}"
        lines.append(
            f"| {row['data']} | {row['jitter']} | {wrong} | {cells[0]} | {cells[1]} | "
            f"{'; '.join(chosen)} | "
            f"{ratio} | {ms['score']:.0f} ms | {row['aligned']['fit_s']:.0f} s |"
        )
    lines += [
        "",
        "False alarms among good test images and misses among anomalies, of the aligned model at "
        "its stored threshold; image AUROC / pixel AUROC / AUPRO at FPR 0.3, in brackets the "
        "range of the image AUROC over the seeds; EfficientNet-Lite0, layers at strides "
        f"{' and '.join(map(str, FYDConfig.strides))}, "
        f"at most {options.channels or 'all'} channels ({options.reduction}), "
        f"prior {'learned' if options.prior < 0 else format(options.prior, 'g')}, "
        f"{options.image_size} x "
        f"{options.image_size}, whole image, masks by nearest, last epoch, mean over seeds "
        f"{', '.join(map(str, options.seeds))} (split, channels, order and jitter). Times are "
        f"medians of one image at a time on {options.threads} threads, in turns.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", help="categories; default all")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--channels", type=int, default=FYDConfig.channels, help="0: all")
    parser.add_argument("--reduction", default=FYDConfig.reduction, help="draw or whiten")
    parser.add_argument("--prior", type=float, default=FYDConfig.prior, help="below 0: learned")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="main_job")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    side = options.image_size
    prior = None if options.prior < 0 else options.prior
    model = {
        "image_size": (side, side),
        "reduction": options.reduction,
        "channels": options.channels,
        "prior": prior,
    }
    rows = []
    for name, jitter in ROWS:
        if options.rows is None or name in options.rows:
            rows.append(measure(options.data, name, jitter, options.seeds, model))
            write(options.name, {"rows": rows, "options": model}, table(rows, options))


if __name__ == "__main__":
    main()
