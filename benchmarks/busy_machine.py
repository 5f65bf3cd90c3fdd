"""What two busy neighbours cost: fit, predict and one image, with threads that wait asleep, as the
``fastalign`` command has it, beside OpenMP's default, under which they spin.

    python benchmarks/busy_machine.py [--images 12] [--out benchmarks/results]

The same commands run on the quiet machine and beside as many busy processes as ``--neighbours``
says, all in one run. ``one image`` is the median of single calls of the fitted model. A time that
passes ``--limit`` seconds is cut off and shown as a bound.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastalign.bench.setting import commit, describe
from fastalign.engine.environment import versions
from fastalign.load import SETTINGS, SPINS, average, cores, wait_passively

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "fastalign" / "demo_data" / "screw_plate"
WORK = ("fit", "predict", "one image")
OURS, DEFAULT = "asleep", "OpenMP's default"
# One image at a time, in a process of its own: the median of single calls in milliseconds.
ONE_IMAGE = """
import sys, time
from statistics import median
import torch
import fastalign
from fastalign.data import load_image, prepare
from fastalign.load import LoadMeter
model = fastalign.FYD.load(sys.argv[1])
image = prepare(load_image(sys.argv[2]), model.config.image_size)[None]
times, end = [], None
with torch.inference_mode():
    for _ in range(3):
        model(image)
    meter = LoadMeter()
    end = time.perf_counter() + float(sys.argv[3])
    while len(times) < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        model(image)
        times.append(time.perf_counter() - began)
print(median(times), meter.read().waited)
"""


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many processes that never rest."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(1.0)
        yield
    finally:
        for process in others:
            process.kill()
            process.wait()


def environment(waiting: str) -> dict[str, str]:
    """The caller's, with one way to wait; the command takes an empty policy for none of the
    user's, so the default is asked for by the number of spins that it stands for."""
    found = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    found.pop("OMP_NUM_THREADS", None)
    if waiting == DEFAULT:
        found[SPINS] = "300000"
    else:
        wait_passively(found)
    return found


def timed(
    work: str, folder: Path, waiting: str, seconds: float, limit: float
) -> tuple[float | None, float | None]:
    """Seconds that ``work`` takes, None where the limit was reached; and for single images the
    share of the time in which their threads waited for a core."""
    model = folder / "model.safetensors"
    started = [sys.executable, "-m", "fastalign"]
    command = {
        "fit": [*started, "fit", str(folder / "part"), "--out", str(folder / "new.safetensors")],
        "predict": [*started, "predict", str(folder / "photos"), "--model", str(model)]
        + ["--out", str(folder / "scored")],
        "one image": [sys.executable, "-c", ONE_IMAGE, str(model)]
        + [str(next((folder / "photos").iterdir())), str(seconds)],
    }[work]
    # Results of an earlier run are in the way of the next one.
    shutil.rmtree(folder / "scored", ignore_errors=True)
    for left in folder.glob("*new.safetensors*"):
        left.unlink()
    began = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            env=environment(waiting),
            stdout=subprocess.PIPE,
            text=True,
            timeout=limit,
            check=True,
        )
    except subprocess.TimeoutExpired:
        return None, None
    if work != "one image":
        return time.perf_counter() - began, None
    taken, waited = done.stdout.split()
    return float(taken), None if waited == "None" else float(waited)


def lay_out(folder: Path, images: int) -> None:
    """A category and a folder of new photographs, out of the ones that ship with the project."""
    good = folder / "part" / "good"
    photos = folder / "photos"
    good.mkdir(parents=True)
    photos.mkdir()
    for path in sorted((DATA / "train" / "good").iterdir())[:images]:
        shutil.copy2(path, good)
    for path in sorted((DATA / "test" / "good").iterdir())[:images]:
        shutil.copy2(path, photos)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All times by work, way to wait and state of the machine, and the loads they were taken at."""
    times: dict[str, dict[str, dict[str, float | None]]] = {name: {} for name in WORK}
    loads: dict[str, float | None] = {}
    waits: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lay_out(folder, options.images)
        subprocess.run(
            [sys.executable, "-m", "fastalign", "fit", str(folder / "part")]
            + ["--out", str(folder / "model.safetensors")],
            env=environment(OURS),
            capture_output=True,
            check=True,
        )
        for state, count in (("quiet", 0), ("busy", options.neighbours)):
            with neighbours(count):
                for work in WORK:
                    for waiting in (OURS, DEFAULT):
                        taken, waited = timed(work, folder, waiting, options.seconds, options.limit)
                        if waited is not None and waiting == OURS:
                            waits[state] = waited
                        times[work].setdefault(waiting, {})[state] = taken
                        shown = f"over {options.limit:g}" if taken is None else f"{taken:.3f}"
                        print(f"{state}, {work}, {waiting}: {shown} s", flush=True)
                loads[state] = average()
    return {
        "device": describe("cpu"),
        "cores": cores(),
        "versions": versions(),
        "commit": commit(),
        "images": options.images,
        "neighbours": options.neighbours,
        "limit_s": options.limit,
        "priority": os.nice(0) if hasattr(os, "nice") else 0,
        "load_average": loads,
        "waited": waits,
        "seconds": times,
    }


def over(times: dict[str, float | None], below: float | None, limit: float) -> str:
    """Busy over quiet, or a bound of it."""
    busy = times["busy"]
    if below is None:
        return "-"
    return f"over {limit / below:.0f}x" if busy is None else f"{busy / below:.2f}x"


def how(found: dict[str, Any]) -> list[str]:
    """The machine at the end of each part, in words."""
    words = []
    for state, load in found["load_average"].items():
        words.append(f"{state}: load average {'unknown' if load is None else format(load, '.1f')}")
        if state in found["waited"]:
            words[-1] += f", one image waited for a core {100 * found['waited'][state]:.0f} %"
            words[-1] += " of the time"
    if found["priority"]:
        words.append(
            f"the machine had other work, before which all of this came (nice {found['priority']})"
        )
    return words


def table(found: dict[str, Any]) -> str:
    """Ratios first, the times beside them."""

    def show(value: float | None, work: str) -> str:
        if value is None:
            return f"over {found['limit_s']:.0f} s"
        return f"{1000 * value:.0f} ms" if work == "one image" else f"{value:.1f} s"

    lines = [
        "# Beside busy processes",
        "",
        f"`benchmarks/busy_machine.py`, commit {found['commit']}, {found['device']}, "
        f"{found['cores']} cores, {found['neighbours']} processes that never rest, "
        f"{found['images']} photographs. One run. " + "; ".join(how(found)) + ".",
        "",
        f"| | busy over quiet, {OURS} | busy over quiet, {DEFAULT} | quiet, {OURS} over default |"
        f" quiet, {OURS} | busy, {OURS} | quiet, default | busy, default |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for work, by in found["seconds"].items():
        ours, default = by[OURS], by[DEFAULT]
        cells = [
            work,
            over(ours, ours["quiet"], found["limit_s"]),
            over(default, default["quiet"], found["limit_s"]),
            f"{ours['quiet'] / default['quiet']:.2f}x" if default["quiet"] else "-",
            *(show(value, work) for value in (ours["quiet"], ours["busy"])),
            *(show(value, work) for value in (default["quiet"], default["busy"])),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--images", type=int, default=12, help="photographs of each kind")
    parser.add_argument("--neighbours", type=int, default=2, help="busy processes beside ours")
    parser.add_argument("--seconds", type=float, default=3.0, help="for single images")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for one command")
    parser.add_argument("--out", type=Path, help="folder for busy_machine.json and .md")
    options = parser.parse_args()
    found = measure(options)
    print(table(found))
    if options.out is not None:
        (options.out / "busy_machine.json").write_text(json.dumps(found, indent=1) + "\n")
        (options.out / "busy_machine.md").write_text(table(found))


if __name__ == "__main__":
    main()
