"""What the network's precision on a GPU does to figures, scores and verdicts.

    python benchmarks/precision.py --data DIR [--models FOLDER] [--device cuda] [--rows cookie]

DIR holds the categories of ``main_job.py``. For each one a model is fitted once, with the defaults
and on the device, or read from FOLDER where an earlier call has left it. Its test images are then
scored on the CPU in float32, and on the device in each precision that it has. Writes
``precision.json`` and ``.md`` after each category.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from protocol import FIGURES, Images, Jitter, figures, read_category
from torch import Tensor

from fastalign import FYD
from fastalign.bench import setting
from fastalign.bench.rows import write_texts
from fastalign.errors import ConfigError
from fastalign.nn.precision import PRECISIONS
from fastalign.verdict import judge_each

RESULTS = Path(__file__).parent / "results" / "gpu"
NAMES = ("screw_plate", "cookie", "ball_screw", "screw_head")
SIZE = (256, 256)
BATCH = 32


def scored(model: FYD, images: Tensor, device: torch.device) -> tuple[np.ndarray, Tensor]:
    """Scores ``[N]`` and maps ``[N,H,W]``, on the CPU."""
    with torch.inference_mode():
        parts = [model(part.to(device)) for part in images.split(BATCH)]
        score, maps = (torch.cat(of).cpu() for of in zip(*parts, strict=True))
    return score.numpy(), maps


def fitted(images: Images, name: str, options: argparse.Namespace) -> FYD:
    """The category's model, on the device."""
    path = None if options.models is None else options.models / f"{name}.safetensors"
    if path is not None and path.exists():
        return FYD.load(path, options.device)
    model = FYD(image_size=SIZE, aspect=images.aspect, epochs=options.epochs).to(options.device)
    model.fit(images.train, images.validation)
    if path is not None:
        options.models.mkdir(parents=True, exist_ok=True)
        model.save(path)
    return model


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One category: a row for the CPU and one for each precision of the device."""
    began = time.perf_counter()
    images = read_category(options.data / name, SIZE, Jitter(), 0)
    model = fitted(images, name, options)
    on_cpu = copy.deepcopy(model).to("cpu").set_precision("float32")
    wanted, maps = scored(on_cpu, images.test, torch.device("cpu"))
    limit = float(model.image_threshold)
    verdicts = judge_each(wanted, limit)
    rows = [{"device": "cpu", "precision": "float32", **figures(wanted, maps, images)}]
    for precision in PRECISIONS:
        try:
            model.set_precision(precision)
        except ConfigError as error:
            print(f"{name}: {error}", flush=True)
            continue
        score, maps = scored(model, images.test, torch.device(options.device))
        # An image without a score has none in any precision, or its verdict has changed.
        judged = np.isfinite(score) & np.isfinite(wanted)
        apart = np.abs(score[judged] / wanted[judged] - 1)
        row = {
            "device": options.device,
            "precision": precision,
            **figures(score, maps, images),
            "largest": float(apart.max()),
            "median": float(np.median(apart)),
            "verdicts_changed": int((judge_each(score, limit) != verdicts).sum()),
        }
        print(name, json.dumps(row), flush=True)
        rows.append(row)
    return {
        "category": name,
        "images": len(wanted),
        "threshold": limit,
        "rows": rows,
        "seconds": round(time.perf_counter() - began, 1),
    }


def page(document: dict[str, Any]) -> str:
    """The table."""
    lines = [
        f"{document['device']}. fastalign {document['commit']}.",
        "",
        "| data | where | precision | image AUROC / pixel AUROC / AUPRO | largest difference of a "
        "score | median | verdicts changed |",
        "|---|---|---|---|---|---|---|",
    ]
    for of in document["categories"]:
        for row in of["rows"]:
            found = " / ".join(f"{row[name]:.4f}" for name in FIGURES)
            cells = [of["category"], row["device"], row["precision"], found]
            if "largest" in row:
                cells += [f"{100 * row['largest']:.2g} %", f"{100 * row['median']:.2g} %"]
                cells.append(f"{row['verdicts_changed']} of {of['images']}")
            else:
                cells += ["", "", ""]
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Against the CPU's scores in float32, by the same model; AUPRO at FPR 0.3."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, help="folder of models, read and written")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    document: dict[str, Any] = {
        "device": setting.describe(options.device),
        "commit": setting.commit(),
        "command": setting.command(),
        "categories": [],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.rows:
        document["categories"].append(measure(name, options))
        texts = {"json": json.dumps(document, indent=1) + "\n", "md": page(document)}
        write_texts(options.out, {f"precision.{end}": text for end, text in texts.items()})
    print(page(document))


if __name__ == "__main__":
    main()
