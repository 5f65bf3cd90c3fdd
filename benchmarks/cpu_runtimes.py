"""What computes the network on a CPU: torch, OpenVINO, torch.compile, oneDNN's graphs.

    python benchmarks/cpu_runtimes.py --data DIR [--baseline 90e0d5e] [--models FOLDER]

DIR holds the categories of ``main_job.py``. Three tables, each with ratios first:

- the network alone, of one fitted model, in one process, call by call in turns;
- the whole model on one aligned image, each way in a process of its own that waits meanwhile, in
  turns, with a commit beside them that fits its own model on the same photographs;
- AUROC, AUPRO, scores and verdicts of every test image, against torch in float32.

Writes ``cpu_runtimes.json`` and ``.md`` to ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

SIZE = (256, 256)
BATCHES = (1, 8)
NAMES = ("screw_plate", "cookie", "ball_screw", "screw_head")
FIRST = "screw_plate"
# Runtime and precision; the first is what the others are compared with.
WAYS = [(r, p) for p in ("float32", "bfloat16") for r in ("torch", "openvino")]
# Calls of a process in a row, of which the last counts: the others bring its data back to caches.
_IN_A_ROW = 3
# The model of the commit, in the folder of the others.
BASELINE = "baseline.safetensors"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def serve(folder: Path, how: str, threads: int, clock: str) -> None:
    """Score images of ``folder`` as standard input asks, with whatever fastalign is on the path."""
    torch.set_num_threads(threads)
    now = CLOCKS[clock]
    from fastalign import FYD

    if how != "baseline":
        from fastalign.load import keep_freed_memory

        # As predict does.
        keep_freed_memory()
    images: dict[str, Any] = torch.load(folder / "images.pt")
    kept = folder / BASELINE
    if how == "baseline" and kept.exists():
        model = FYD.load(kept)
    elif how == "baseline":
        model = FYD(image_size=SIZE, aspect=images["aspect"])
        model.fit(images["train"], images["validation"])
        model.save(kept)
    else:
        runtime, precision = how.split(",")
        file = folder / "model.safetensors"
        model = FYD.load(file, runtime=runtime, precision=precision)
    print("ready", flush=True)
    place = 0
    for line in sys.stdin:
        count = int(line)
        batch = images["test"][torch.arange(place, place + count) % len(images["test"])]
        place += count
        with torch.inference_mode():
            for _ in range(_IN_A_ROW):
                began = now()
                model(batch)
                seconds = now() - began
        print(1000 * seconds, flush=True)


class Scorer:
    """A process that scores; ``tree``: where its fastalign is."""

    def __init__(self, tree: Path, folder: Path, how: str, threads: int, clock: str) -> None:
        from fastalign.load import wait_passively

        command = [sys.executable, "-W", "ignore", __file__, "--serve", str(folder), how]
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        wait_passively(environment)
        self._process = subprocess.Popen(
            [*command, "--threads", str(threads), "--clock", clock],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=tree,
        )
        if self._answer() != "ready":
            raise RuntimeError(f"{how}: the process has ended; see above")

    def _answer(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def time(self, images: int) -> float:
        """Milliseconds of a call with so many images."""
        assert self._process.stdin
        self._process.stdin.write(f"{images}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@contextlib.contextmanager
def tree_of(commit: str | None) -> Iterator[Path | None]:
    """A checkout of ``commit`` with its library, None: nothing."""
    from fastalign.bench import interleave

    if commit is None:
        yield None
        return
    if Path(commit).is_dir():
        yield Path(commit).resolve()
        return
    with interleave.tree_of(commit) as tree:
        yield tree


def whole_model(
    model: Any, images: Any, baseline: Path | None, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Rows of the whole model by way and batch, and of the baseline, taken in turns."""
    import fastalign

    ours = Path(fastalign.__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = {n: getattr(images, n) for n in ("train", "validation", "test", "aspect")}
        torch.save(parts, folder / "images.pt")
        model.save(folder / "model.safetensors")
        fitted = None if options.models is None else options.models / BASELINE
        if fitted is not None and fitted.exists():
            shutil.copy(fitted, folder)
        ways = {",".join(way): ours for way in WAYS}
        if baseline is not None:
            ways["baseline"] = baseline
        given = options.threads, options.clock
        scorers = {how: Scorer(tree, folder, how, *given) for how, tree in ways.items()}
        try:
            rows = []
            shuffle = random.Random(0).shuffle
            for count in BATCHES:
                times: dict[str, list[float]] = {how: [] for how in scorers}
                for turn in range(options.rounds + 2):
                    order = list(scorers)
                    shuffle(order)
                    for how in order:
                        milliseconds = scorers[how].time(count)
                        if turn >= 2:
                            times[how].append(milliseconds)
                first = times.get("baseline", times[",".join(WAYS[0])])
                rows += [_row(how, count, found, first) for how, found in times.items()]
            if fitted is not None and baseline is not None:
                shutil.copy(folder / BASELINE, fitted)
            return rows
        finally:
            for scorer in scorers.values():
                scorer.close()


def _row(how: str, count: int, times: Sequence[float], first: Sequence[float]) -> dict[str, Any]:
    """``ratio``: the median over the turns of the time against the first one's in that turn."""
    ratio = median(own / other for own, other in zip(times, first, strict=True))
    return {"how": how, "images": count, "ratio": ratio, "ms": median(times) / count}


def network(model: Any, images: Tensor, rounds: int, clock: str) -> list[dict[str, Any]]:
    """Rows of the network alone by contestant and batch, taken in turns."""
    backbone, now = model.features.backbone, CLOCKS[clock]
    rows = []
    for count in BATCHES:
        batch = images[:count]
        works: dict[str, Callable[[], object]] = {}
        for runtime, precision in WAYS:
            own = copy.deepcopy(backbone).run_in(precision).run_by(runtime)
            works[f"{runtime},{precision}"] = _called(own, batch)
        plain = copy.deepcopy(backbone).run_by("torch").limit_memory(float("inf"))
        compiled = torch.compile(copy.deepcopy(plain), dynamic=False)
        works["torch.compile,float32"] = _called(compiled, batch)
        works["oneDNN graph,float32"] = _called(_onednn(plain, batch), batch)
        times: dict[str, list[float]] = {name: [] for name in works}
        with torch.inference_mode():
            for turn in range(rounds + 5):
                for name, work in works.items():
                    for _ in range(_IN_A_ROW):
                        began = now()
                        work()
                        milliseconds = 1000 * (now() - began)
                    if turn >= 5:
                        times[name].append(milliseconds)
        first = times[",".join(WAYS[0])]
        rows += [_row(name, count, found, first) for name, found in times.items()]
    return rows


def _called(work: Any, batch: Tensor) -> Callable[[], object]:
    return lambda: work(batch)


def _onednn(backbone: Any, batch: Tensor) -> Any:
    """The stages as TorchScript that oneDNN fuses."""
    torch.jit.enable_onednn_fusion(True)

    class Chain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stages = torch.nn.ModuleList(backbone.stages())

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            maps = []
            for stage in self.stages:
                x = stage(x)
                maps.append(x)
            return tuple(maps)

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.jit.freeze(torch.jit.trace(Chain().eval(), batch))


def judged(model: Any, images: Any, name: str) -> dict[str, Any]:
    """Figures, scores and verdicts of a category's test images by each way."""
    import numpy as np
    from precision import scored
    from protocol import figures

    from fastalign.verdict import judge_each

    limit = float(model.image_threshold)
    rows: list[dict[str, Any]] = []
    wanted = verdicts = None
    for runtime, precision in WAYS:
        model.set_precision(precision).set_runtime(runtime)
        score, maps = scored(model, images.test, torch.device("cpu"))
        row = {"how": f"{runtime},{precision}", **figures(score, maps, images)}
        if wanted is None or verdicts is None:
            wanted, verdicts = score, judge_each(score, limit)
        both = np.isfinite(score) & np.isfinite(wanted)
        row["largest"] = float(np.abs(score[both] / wanted[both] - 1).max())
        row["verdicts_changed"] = int((judge_each(score, limit) != verdicts).sum())
        rows.append(row)
        print(name, row, flush=True)
    model.set_precision(None)
    return {"category": name, "images": len(images.test), "rows": rows}


def page(document: dict[str, Any]) -> str:
    """The tables."""
    from protocol import FIGURES

    times = {"wall": "by the clock on the wall", "cpu": "of a core, whatever else had it"}
    threads = f"{document['threads']} thread{'s' if document['threads'] > 1 else ''}"
    lines = [f"{threads}; times {times[document['clock']]}.", ""]
    for key, title in (("network", "The network alone"), ("model", "The whole model, aligned")):
        rows = document[key]
        base = "the baseline" if any(row["how"] == "baseline" for row in rows) else "torch, float32"
        lines += [f"**{title}**, one image of {SIZE[0]} x {SIZE[1]} pixels; ratio to {base}", ""]
        heads = " | ".join(f"of {count}: ratio | ms an image" for count in BATCHES)
        lines += [f"| | {heads} |", "|---" * (1 + 2 * len(BATCHES)) + "|"]
        for how in dict.fromkeys(row["how"] for row in rows):
            cells = [how.replace(",", ", ")]
            for row in rows:
                if row["how"] == how:
                    cells += [f"{row['ratio']:.2f}", f"{row['ms']:.1f}"]
            if how == "baseline":
                cells[0] = f"commit {document['baseline']}"
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    lines += [
        "**Scores** against torch in float32, by the same model; AUPRO at FPR 0.3",
        "",
        "| data | | image AUROC / pixel AUROC / AUPRO | largest difference of a score | verdicts "
        "changed |",
        "|---|---|---|---|---|",
    ]
    for of in document["categories"]:
        for row in of["rows"]:
            found = " / ".join(f"{row[name]:.4f}" for name in FIGURES)
            changed = f"{row['verdicts_changed']} of {of['images']}"
            how = row["how"].replace(",", ", ")
            lines.append(
                f"| {of['category']} | {how} | {found} | {100 * row['largest']:.2g} % | {changed} |"
            )
    return "\n".join(lines)


_TOLD = ("baseline", "threads", "clock")


def _tell(option: str, value: str) -> None:
    """Let the command that results name have no path of this machine."""
    if option in sys.argv:
        sys.argv[sys.argv.index(option) + 1] = value


def measure(options: argparse.Namespace) -> None:
    from precision import fitted
    from protocol import Jitter, read_category, write

    from fastalign.bench.setting import git

    document: dict[str, Any] = {name: getattr(options, name) for name in _TOLD}
    document["categories"] = []
    _tell("--models", "MODELS")
    for name in options.rows:
        images = read_category(options.data / name, SIZE, Jitter(), 0)
        model = fitted(images, name, options)
        if name == options.rows[0]:
            document["network"] = network(model, images.test, options.rounds, options.clock)
            with tree_of(options.baseline) as tree:
                if tree is not None:
                    document["baseline"] = git(tree, "rev-parse", "--short=7", "HEAD")
                    _tell("--baseline", document["baseline"])
                rows = whole_model(model, images, tree, options)
            document["model"] = rows
        document["categories"].append(judged(model, images, name))
        write("cpu_runtimes", document, page(document))
    print(page(document))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--models", type=Path, help="folder of models, read and written")
    parser.add_argument("--baseline", help="a commit, or the folder of a checkout that is built")
    parser.add_argument("--rows", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clock",
        default="wall",
        choices=CLOCKS,
        help="cpu: the time that the process had a core, for machines with other work; 1 thread",
    )
    parser.add_argument("--device", default="cpu", choices=["cpu"])
    parser.add_argument("--serve", nargs=2, metavar=("FOLDER", "HOW"), help="of this script's own")
    options = parser.parse_args()
    if options.serve:
        serve(Path(options.serve[0]), options.serve[1], options.threads, options.clock)
        return
    if options.data is None:
        parser.error("--data is needed")
    from fastalign.load import wait_passively

    environment = dict(os.environ)
    if wait_passively(environment):
        # As in the commands; torch has read the settings when it was loaded.
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    torch.set_num_threads(options.threads)
    measure(options)


if __name__ == "__main__":
    main()
