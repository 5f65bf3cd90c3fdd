"""The steps of a score on a CPU, beside those of another commit, in one run.

    python benchmarks/model_steps.py --before CHECKOUT [--fit-each] [--rounds 6] [--out FOLDER]

A model is fitted on the shipped photographs, aligned and not, and saved; processes of this checkout
and of ``--before``, a built checkout of the code before, load the file and take turns. Each
measures, by the median of its calls in turns: the network and what it is multiplied with
(``encode``), the distances (``distance``), the map in the image's frame (``map``), and the whole;
and its scores are compared. With ``--fit-each`` every checkout fits a model of its own, by its own
defaults, and the seconds of that are a step too: for a code before whose models were others.
Without ``--before`` this checkout alone. Writes ``model_steps.json`` and ``.md``, with
``--fit-each`` ``model_steps_own.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from fastalign import FYD
from fastalign.bench.protocol import Jitter, read_category
from fastalign.bench.setting import commit, describe
from fastalign.engine.environment import versions
from fastalign.load import wait_passively

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DATA = ROOT / "fastalign" / "demo_data" / "screw_plate"
STEPS = ("encode", "distance", "map", "whole")
# Model file, images, threads and seconds for each batch; the last line is what was measured.
CHILD = """
import json, sys, time
from statistics import median
import torch
from torch.utils._python_dispatch import TorchDispatchMode
import fastalign
from fastalign.models.rooms import warp

class Counter(TorchDispatchMode):
    operations = 0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        returned = [r.alias_info for r in func._schema.returns]
        # A view is no work, and on a GPU no launch.
        if not any(alias is not None and not alias.is_write for alias in returned):
            self.operations += 1
        return func(*args, **(kwargs or {}))

model = fastalign.FYD.load(sys.argv[1], runtime="torch")
images = torch.load(sys.argv[2])
torch.set_num_threads(int(sys.argv[3]))
found = {}
with torch.inference_mode():
    for batch in map(int, sys.argv[5].split(",")):
        given = images[:batch]
        theta = model.pose(given)
        aligned = warp(given, theta)
        stages, moved = model.features(aligned, theta)
        distance, support = model.density(stages)
        calls = {
            "encode": lambda: model.features(aligned, theta),
            "distance": lambda: model.density(stages),
            "map": lambda: model.maps(distance, moved, support),
            "whole": lambda: model(given),
        }
        times = {name: [] for name in calls}
        end = time.perf_counter() + float(sys.argv[4])
        while len(times["whole"]) < 3 or time.perf_counter() < end:
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                times[name].append(1000 * (time.perf_counter() - start))
        found[batch] = {name: median(taken) for name, taken in times.items()}
        found[batch]["scores"] = model(given)[0].tolist()
        found[batch]["operations"] = {}
        for name, call in calls.items():
            with Counter() as counter:
                call()
            found[batch]["operations"][name] = counter.operations
print(json.dumps(found))
"""
# Model file, images, side of the images, align and threads; the last line is the seconds.
FIT = """
import sys, time
import torch
import fastalign
given = torch.load(sys.argv[2])
torch.set_num_threads(int(sys.argv[5]))
model = fastalign.FYD(image_size=int(sys.argv[3]), align=sys.argv[4])
start = time.perf_counter()
model.fit(given["train"], given["validation"], seed=0)
print(time.perf_counter() - start)
model.save(sys.argv[1])
"""


def run(tree: Path, model: Path, images: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What a process with the code of a checkout measures."""
    given = [model, images, options.threads, options.seconds, options.batches]
    return dict(json.loads(_last_line(tree, CHILD, given)))


def fit_in(tree: Path, model: Path, images: Path, align: str, options: argparse.Namespace) -> float:
    """The seconds in which a checkout fits a model by its own defaults and writes it."""
    given = [model, images, options.size, align, options.threads]
    return float(_last_line(tree, FIT, given))


def _last_line(tree: Path, program: str, given: Sequence[Any]) -> str:
    environment = dict(os.environ, PYTHONPATH=str(tree))
    wait_passively(environment)
    command = [sys.executable, "-c", program, *map(str, given)]
    done = subprocess.run(
        command, env=environment, cwd=tree, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


def measure(trees: Mapping[str, Path], align: str, options: argparse.Namespace) -> list[Any]:
    """Rows of one model."""
    size = (options.size, options.size)
    validation = 0.1 if options.fit_each else 0.0
    data = read_category(options.data, size, Jitter(0.0, 0.0), seed=0, validation=validation)
    with tempfile.TemporaryDirectory() as folder:
        images, learned = Path(folder) / "images.pt", Path(folder) / "learned.pt"
        torch.save(data.test[:8].clone(), images)
        torch.save({"train": data.train, "validation": data.validation}, learned)
        files = {name: Path(folder) / f"{name}.safetensors" for name in trees}
        seconds: dict[str, list[float]] = {name: [] for name in trees}
        if options.fit_each:
            for _ in range(options.fits):
                for name, tree in trees.items():
                    seconds[name].append(fit_in(tree, files[name], learned, align, options))
            model = FYD.load(files["now"])
        else:
            model = FYD(image_size=size, align=align, skip=False, epochs=1)
            model.fit(data.train, seed=0).save(files["now"])
            files = dict.fromkeys(trees, files["now"])
        turns: dict[str, list[Any]] = {name: [] for name in trees}
        for _ in range(options.rounds):
            for name, tree in trees.items():
                turns[name].append(run(tree, files[name], images, options))
        sizes = {name: file.stat().st_size for name, file in files.items()}
    rows = []
    for batch in options.batches.split(","):
        row: dict[str, Any] = {"align": align, "size": options.size, "batch": int(batch)}
        row["moved"] = moved(model, int(batch))
        for name, taken in turns.items():
            row[name] = {
                step: round(median(turn[batch][step] for turn in taken), 3) for step in STEPS
            }
            row[f"operations {name}"] = taken[0][batch]["operations"]
            if options.fit_each:
                row[name]["fit"] = round(median(seconds[name]), 2)
                row[f"bytes {name}"] = sizes[name]
        if len(turns) > 1 and not options.fit_each:
            ours, before = (torch.tensor(t[0][batch]["scores"]) for t in turns.values())
            row["score_difference"] = float(((ours - before) / before).abs().max())
        rows.append(row)
    return rows


def moved(model: FYD, batch: int) -> dict[str, list[float]]:
    """MB that a step has to move, made tensor by tensor and as one op: every tensor read and
    written once, float32 but for the directions."""
    channels, (height, width) = model.density.channels, model.density.size
    locations = height * width
    features = 4 * batch * channels * locations
    rows = model.density.gaussians.whitener
    given = rows.numel() * rows.element_size() + 4 * channels * locations
    # The coarser stage has a quarter of the places. It is upsampled and added; what has no support
    # is filled, where there is any such place; and the distance reads what that leaves.
    filled = 0.0 if model.density.gaussians.supported_everywhere else 2.0
    found = {"distance": [given + (1.25 + 3 + filled + 1) * features, given + 1.25 * features]}
    pixels = batch * model.config.image_size[0] * model.config.image_size[1]
    small = 4 * batch * locations
    if model.config.align == "none":
        # Upsampled, and a product for each axis; two narrow products.
        columns = 4 * batch * height * model.config.image_size[1]
        found["map"] = [small + 20 * pixels, small + 2 * columns + 4 * pixels]
    else:
        # A warped pair, a product for each axis, the division; two launches and a pair between.
        found["map"] = [8 * small + 52 * pixels, 2 * small + 24 * pixels]
    return {step: [round(value / 1e6, 2) for value in values] for step, values in found.items()}


def page(document: Mapping[str, Any]) -> str:
    """The rows as a table."""
    names = [name for name in ("before", "now") if name in document["rows"][0]]
    lines = [
        "# The steps of a score",
        "",
        f"`python benchmarks/model_steps.py`, {document['setting']}, {document['threads']} "
        f"threads, torch {document['versions']['torch']}. Milliseconds a batch, medians of "
        f"{document['rounds']} processes of each in turns.",
        "",
        "Operations are torch's, views left out: on a GPU a launch each, or more. Where both sides "
        "have the same network, what `encode` differs by is the machine's.",
        "",
        "| model | batch | step | "
        + " | ".join([*names, *(["ratio"] if names[1:] else []), "operations"])
        + " |",
        "|---|---|---|" + "---|" * (len(names) + len(names[1:]) + 1),
    ]
    for row in document["rows"]:
        for step in STEPS:
            times = [row[name][step] for name in names]
            cells = [f"{value:.2f}" for value in times]
            cells += [f"{times[1] / times[0]:.2f}"] if times[1:] else []
            cells += [" to ".join(str(row[f"operations {name}"][step]) for name in names)]
            words = f"`align={row['align']}`, {row['size']} px"
            lines.append(f"| {words} | {row['batch']} | {step} | {' | '.join(cells)} |")
    lines += [
        "",
        "What the two steps have to move beside the network, made tensor by tensor and as one op, "
        "in MB: every tensor read and written once.",
        "",
        "| model | batch | distance | map |",
        "|---|---|---|---|",
    ]
    for row in document["rows"]:
        cells = ["{} to {}".format(*row["moved"][step]) for step in ("distance", "map")]
        words = f"`align={row['align']}`, {row['size']} px"
        lines.append(f"| {words} | {row['batch']} | {' | '.join(cells)} |")
    fits = {row["align"]: row for row in document["rows"] if "fit" in row["now"]}
    if fits:
        lines += ["", "| model | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
        for align, row in fits.items():
            cells = [f"{row[n]['fit']:.1f} s, {row[f'bytes {n}'] / 1e6:.1f} MB" for n in names]
            lines.append(f"| `align={align}`: fit, file | " + " | ".join(cells) + " |")
    if names[1:] and not fits:
        worst = max(row["score_difference"] for row in document["rows"])
        lines += ["", f"Scores differ by {worst:.1e} of themselves at most."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, help="a built checkout of the code before")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--align", nargs="*", default=["all", "none"])
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--fit-each", action="store_true", help="models of each code's defaults")
    parser.add_argument("--fits", type=int, default=3, help="of each checkout, with --fit-each")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each batch and process")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    trees = {} if options.before is None else {"before": options.before.resolve()}
    trees["now"] = ROOT
    rows = [row for align in options.align for row in measure(trees, align, options)]
    document = {
        "setting": describe("cpu"),
        "commit": commit(),
        "versions": versions(),
        "threads": options.threads,
        "rounds": options.rounds,
        "rows": rows,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1) + "\n"
    name = "model_steps_own" if options.fit_each else "model_steps"
    (options.out / f"{name}.json").write_text(text, encoding="utf-8")
    (options.out / f"{name}.md").write_text(page(document), encoding="utf-8")
    print(page(document))


if __name__ == "__main__":
    main()
