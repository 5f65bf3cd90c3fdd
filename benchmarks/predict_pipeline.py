"""The whole command `fastalign predict` beside that of another commit, and what its stages cost.

    python benchmarks/predict_pipeline.py --data DATA/screw_plate --against 90e0d5e [--turns 3]
        [--own-models]

Both commands score the same photographs with the same model and write everything, in turns in one
run; the tables and pictures that they leave are compared. ``--own-models``: each fits its own,
where the other cannot read ours, and what they write is not compared. ``--against`` is a commit,
which is checked out beside this checkout and built where its native sources differ, or a folder
with a checkout that is built. The stages are timed one by one in one thread, without the pipeline.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from fastalign.bench.setting import commit, describe
from fastalign.engine.environment import versions
from fastalign.load import LoadMeter, cores

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "fastalign" / "demo_data" / "screw_plate"
KINDS = ("map", "mask", "overlay")
# What a process loads before the first photograph, and in which order the command does.
START = """
import time; began = time.perf_counter()
import fastalign.cli
import fastalign.engine; print(time.perf_counter() - began)
from fastalign import artifact; import sys
artifact.load(sys.argv[1]); print(time.perf_counter() - began)
"""


@contextlib.contextmanager
def checkout(against: str) -> Iterator[Path]:
    """A folder from which the other ``fastalign`` is imported."""
    if Path(against).is_dir():
        yield Path(against).resolve()
        return
    from fastalign.bench import interleave

    with interleave.tree_of(against) as tree:
        yield tree


def command(place: Path, *arguments: str) -> tuple[float, float]:
    """Seconds of a command of the ``fastalign`` in ``place``, and those of all processors."""
    environment = {**os.environ, "PYTHONPATH": str(place)}
    before, began = os.times(), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "fastalign", *arguments],
        env=environment,
        cwd=place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    seconds, after = time.perf_counter() - began, os.times()
    spent = after.children_user + after.children_system
    return seconds, spent - before.children_user - before.children_system


def start(model: Path) -> dict[str, float]:
    """Seconds from the beginning of a process until the model is there."""
    done = subprocess.run(
        [sys.executable, "-c", START, str(model)], stdout=subprocess.PIPE, text=True, check=True
    )
    imported, loaded = (float(line) for line in done.stdout.split())
    return {"importing": imported, "loading the model": loaded - imported}


def content(path: Path) -> Any:
    """What a reader sees of a file; of JPEG its bytes, since nothing of them may change."""
    if path.suffix == ".tiff":
        return tifffile.imread(path).tobytes()
    return np.asarray(Image.open(path)).tobytes() if path.suffix == ".png" else path.read_bytes()


def compare(ours: Path, theirs: Path) -> dict[str, Any]:
    """How many files of the other run are the same by bytes or by what they show; names of others.
    The page holds date and load and is left out."""
    found: dict[str, Any] = {"same bytes": 0, "same content": 0, "different": []}
    for path in sorted(theirs.rglob("*")):
        name = path.relative_to(theirs).as_posix()
        if not path.is_file() or name == "report.html":
            continue
        other = ours / name
        if not other.is_file():
            found["different"].append(name)
        elif other.read_bytes() == path.read_bytes():
            found["same bytes"] += 1
        elif content(other) == content(path):
            found["same content"] += 1
        else:
            found["different"].append(name)
    return found


def stages(model_file: Path, photos: Path, most: int) -> dict[str, float]:
    """Milliseconds of one photograph in each stage, medians, in one thread."""
    import torch

    from fastalign import artifact
    from fastalign.engine.inputs import find_inputs
    from fastalign.engine.judging import Judging
    from fastalign.engine.pictures import PictureOptions, PictureWriter
    from fastalign.engine.predict_page import PredictionPage
    from fastalign.engine.reading import Reader
    from fastalign.engine.scoring import score_resized, thresholds

    torch.set_num_threads(1)
    model = artifact.load(model_file)
    limits = thresholds(model)
    times: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        began = time.perf_counter()
        result = work(*arguments)
        times.setdefault(name, []).append(1000 * (time.perf_counter() - began))
        return result

    with tempfile.TemporaryDirectory() as folder:
        writers = {
            kind: PictureWriter(Path(folder), PictureOptions((kind,)), limits) for kind in KINDS
        }
        reader = Reader(model.config.image_size, None, writers["map"])
        page = PredictionPage(Path(folder), limits, most, "photographs", None)
        judging = Judging(model, limits)
        for number, item in enumerate(find_inputs(photos)[0][:most]):
            photograph = timed("read and resize", reader.read, item)
            image, small = photograph.image, photograph.resized
            detail = timed("model", score_resized, model, [small])
            row = timed("verdict and regions", judging.row, item.name, image, detail, 0)
            scores = timed("map at full size", writers["map"].scores, image, detail.map[0])
            for kind, writer in writers.items():
                timed(f"write {kind}", writer.save, item, image, scores, {})
            card = page.card(row.score, detail, 0)
            timed("thumbnails", page.draw, number, image, card)
    return {name: median(values[1:] or values) for name, values in times.items()}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All times, and whether both commands have written the same."""
    photos = options.data / "test"
    ours: list[list[float]] = []
    theirs: list[list[float]] = []
    with tempfile.TemporaryDirectory() as name, checkout(options.against) as other:
        folder = Path(name)
        model = options.model or folder / "model.safetensors"
        if options.model is None:
            command(ROOT, "fit", str(options.data), "--out", str(model))
        models = {"ours": model, "theirs": model}
        if options.own_models:
            models["theirs"] = folder / "other.safetensors"
            command(other, "fit", str(options.data), "--out", str(models["theirs"]))
        meter = LoadMeter()
        for turn in range(options.turns):
            for seconds, place, out in ((theirs, other, "theirs"), (ours, ROOT, "ours")):
                shutil.rmtree(folder / out, ignore_errors=True)
                arguments = ["--model", str(models[out]), "--out", str(folder / out)]
                seconds.append([*command(place, "predict", str(photos), *arguments)])
                print(f"turn {turn}, {out}: {seconds[-1][0]:.2f} s", file=sys.stderr, flush=True)
        same = None if options.own_models else compare(folder / "ours", folder / "theirs")
        sizes = {
            out: sum(p.stat().st_size for p in (folder / out).rglob("*") if p.is_file()) / 1e6
            for out in ("ours", "theirs")
        }
        starting = start(model)
        costs = stages(model, photos, options.staged)
        load = meter.read().to_json()
    return {
        "device": describe("cpu"),
        "cores": cores(),
        "versions": versions(),
        "commit": commit(),
        "against": options.against,
        "photographs": sum(path.is_file() for path in photos.rglob("*")),
        "seconds": {"ours": [t[0] for t in ours], "theirs": [t[0] for t in theirs]},
        "processor_seconds": {"ours": [t[1] for t in ours], "theirs": [t[1] for t in theirs]},
        "megabytes": sizes,
        "files": same,
        "start_s": starting,
        "stages_ms": costs,
        "load": load,
    }


def table(found: dict[str, Any]) -> str:
    """Ratios first, then the times."""
    seconds, spent = found["seconds"], found["processor_seconds"]
    ours, theirs = median(seconds["ours"]), median(seconds["theirs"])
    files = found["files"]
    if files is None:
        compared = "Each with a model that it has fitted itself, so files are not compared."
    else:
        compared = (
            f"Files besides the page: {files['same bytes']} with the same bytes, "
            f"{files['same content']} that show the same at another level of compression; "
            f"different: {', '.join(files['different'][:5]) or 'none'}."
        )
    lines = [
        "# The whole command",
        "",
        f"`benchmarks/predict_pipeline.py`, commit {found['commit']} beside {found['against']}, "
        f"{found['device']}, {found['cores']} cores, {found['photographs']} photographs, "
        f"all outputs, medians of {len(seconds['ours'])} turns.",
        "",
        "| | of the other's | ours | the other |",
        "|---|---|---|---|",
        f"| seconds of the command | {ours / theirs:.2f} | {ours:.1f} | {theirs:.1f} |",
        f"| seconds of all processors | {median(spent['ours']) / median(spent['theirs']):.2f} | "
        f"{median(spent['ours']):.1f} | {median(spent['theirs']):.1f} |",
        f"| megabytes written | {found['megabytes']['ours'] / found['megabytes']['theirs']:.2f} | "
        f"{found['megabytes']['ours']:.0f} | {found['megabytes']['theirs']:.0f} |",
        "",
        compared,
        "",
        "| before the first photograph | s |",
        "|---|---|",
        *(f"| {name} | {value:.2f} |" for name, value in found["start_s"].items()),
        "",
        "| one photograph, one thread | ms |",
        "|---|---|",
        *(f"| {name} | {value:.1f} |" for name, value in found["stages_ms"].items()),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="a category with test photographs")
    parser.add_argument("--against", required=True, help="a commit, or a checkout that is built")
    parser.add_argument("--model", type=Path, help="fitted before; otherwise it is fitted first")
    parser.add_argument("--own-models", action="store_true", help="each command fits its own")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--staged", type=int, default=12, help="photographs to time stages on")
    parser.add_argument("--out", type=Path, help="folder for predict_pipeline.json and .md")
    options = parser.parse_args()
    options.data = options.data.resolve()
    found = measure(options)
    print(table(found))
    if options.out is not None:
        (options.out / "predict_pipeline.json").write_text(json.dumps(found, indent=1) + "\n")
        (options.out / "predict_pipeline.md").write_text(table(found))


if __name__ == "__main__":
    main()
