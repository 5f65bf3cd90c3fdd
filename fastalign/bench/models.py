"""One model on one set of images, in a process of its own whose peak memory is all its own.

``python -m fastalign.bench.models JOB`` prints the row of a job as its last line.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastalign.bench import contestants, timing
from fastalign.bench.budget import Budget, Clock, in_turn
from fastalign.bench.controls import CONTROLS
from fastalign.bench.libraries import Absent
from fastalign.bench.measure import first_line
from fastalign.bench.protocol import Images, Jitter, figures, read_category, scores_of
from fastalign.engine.environment import peak_rss_mb
from fastalign.load import LoadMeter, wait_passively

Row = dict[str, Any]
BATCH = 8
# Largest difference of two maps of the same image, as a part of the largest value.
TOLERANCE = 1e-3
# Of single images, after which no more are begun once there are FEWEST.
LATENCY_S, FEWEST = 15.0, 3
COLUMNS = (
    *("part", "contestant", "image_size", "pose", "train_images", "gate", "fit_s"),
    *("latency_p50_ms", "latency_p95_ms", "images_per_second", "peak_bytes", "stored_bytes"),
    *("image_auroc", "pixel_auroc", "aupro_30"),
)


@dataclass(frozen=True)
class Job:
    """``part``: of the report, ``model``, ``pose``, ``resolution`` or ``control``."""

    part: str
    contestant: str
    size: int = 256
    degrees: float = 0.0
    shift: float = 0.0
    rounds: int = 20
    threads: int = 2

    @property
    def name(self) -> str:
        pose = Jitter(self.degrees, self.shift).label
        return f"{self.part}: {self.contestant}, {self.size} x {self.size}, {pose}"


def _part(part: str, names: tuple[str, ...], **options: Any) -> list[Job]:
    return [Job(part, name, **options) for name in names]


NAMES = contestants.NAMES
TURNED = {"degrees": 20, "shift": 0.08}
QUICK = [
    *_part("model", NAMES, size=128),
    *_part("pose", NAMES[:3], size=128, rounds=10, **TURNED),
    *_part("resolution", NAMES[1:3], size=256, rounds=10),
]
FULL = [
    *_part("model", NAMES, rounds=40),
    *(
        job
        for degrees, shift in ((20, 0.08), (45, 0.1), (180, 0.1))
        for job in _part("pose", NAMES, degrees=degrees, shift=shift)
    ),
    *(job for size in (128, 512) for job in _part("resolution", NAMES, size=size)),
    *_part("control", tuple(CONTROLS), rounds=40),
]


def judge(single: Tensor, batched: Tensor, reference: Tensor | None) -> str | None:
    """What is wrong with maps ``[B,H,W]`` of the same images scored in several ways, or None;
    places that nothing was compared at are NaN in all of them."""
    if bool(single.isinf().any()) or bool(single.isnan().all()):
        return "a map is not finite"
    largest = single.nan_to_num(nan=0.0).abs().max().item()
    for name, other in (("in one batch", batched), ("by the reference ops", reference)):
        if other is None:
            continue
        if other.shape != single.shape:
            return f"maps {name} have shape {list(other.shape)}, not {list(single.shape)}"
        if not torch.equal(other.isnan(), single.isnan()):
            return f"maps {name} have other places without a value"
        off = (other - single).nan_to_num(nan=0.0).abs().max().item()
        if not off <= TOLERANCE * largest:
            return f"maps {name} are off by {off:.2g} of {largest:.2g}"
    return None


@contextlib.contextmanager
def reference_ops() -> Iterator[None]:
    """Every op by its reference."""
    before = os.environ.get("FASTALIGN_BACKEND")
    os.environ["FASTALIGN_BACKEND"] = "reference"
    try:
        yield
    finally:
        if before is None:
            del os.environ["FASTALIGN_BACKEND"]
        else:
            os.environ["FASTALIGN_BACKEND"] = before


def measure(
    contestant: contestants.Contestant,
    images: Images,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Row:
    """Fit, gate, one image at a time, batches, figures. Without a right result nothing else."""
    row = timed(contestant, images, rounds, clock)
    if "failed" in row:
        return row
    with torch.inference_mode():
        maps = torch.cat([contestant.score(part) for part in images.test.split(BATCH)])
    return row | figures(scores_of(maps).numpy(), maps, images)


def timed(
    contestant: contestants.Contestant,
    images: Images,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Row:
    """As :func:`measure`, without the figures."""
    meter, began = LoadMeter(), clock()
    contestant.learn(images.train.split(16))
    row: Row = {"train_images": len(images.train), "fit_s": clock() - began}
    with torch.inference_mode():
        few = images.test[:BATCH]
        single = torch.cat([contestant.score(image) for image in few.split(1)])
        batched = contestant.score(few)
        reference = None
        if isinstance(contestant, contestants.Ours):
            with reference_ops():
                reference = torch.cat([contestant.score(image) for image in few.split(1)])
        wrong = judge(single, batched, reference)
        if wrong:
            return {"failed": f"wrong: {wrong}"}
        times: list[float] = []
        for number in range(rounds):
            if len(times) >= FEWEST and sum(times) > 1000 * LATENCY_S:
                break
            image = images.test[number % len(images.test)][None]
            began = clock()
            contestant.score(image)
            times.append(1000 * (clock() - began))
        found = timing.summary(times)
        row |= {"latency_p50_ms": found["ms"], "latency_p95_ms": found["p95"]}
        row["samples"] = found["samples"]
        began, batches = clock(), max(1, rounds // BATCH)
        for _ in range(batches):
            contestant.score(few)
        row["images_per_second"] = batches * len(few) / (clock() - began)
        row["load"] = meter.read().to_json()
        memory = peak_rss_mb()[0]
        row["peak_bytes"] = None if memory is None else int(1e6 * memory)
        row["stored_bytes"] = contestant.stored_bytes()
    return row


def run(job: Job, data: Path) -> Row:
    """The row of a job; what went wrong is in it and never raised."""
    torch.set_num_threads(job.threads)
    jitter = Jitter(job.degrees, job.shift)
    row: Row = {"part": job.part, "contestant": job.contestant, "image_size": job.size}
    row["pose"] = jitter.label
    try:
        contestant = contestants.make(job.contestant, job.size)
        images = read_category(data, (job.size, job.size), jitter, seed=0, validation=0.0)
        row |= measure(contestant, images, job.rounds)
    except Absent as error:
        row["absent"] = str(error)
    except Exception as error:
        row["failed"] = first_line(error)
    return row


def in_child(job: Job, data: Path, limit: float) -> Row:
    """:func:`run` in a new process, which is ended after ``limit`` seconds."""
    command = [sys.executable, "-m", "fastalign.bench.models"]
    command.append(json.dumps({**asdict(job), "data": str(data)}))
    row: Row = {"part": job.part, "contestant": job.contestant, "image_size": job.size}
    row["pose"] = Jitter(job.degrees, job.shift).label
    environment = dict(os.environ)
    wait_passively(environment)
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return row | {"out_of_time": f"did not end within {limit:.0f} s"}
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [""]
        return row | {"failed": f"ended with code {done.returncode}: {last[0][:200]}"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run_jobs(
    document: dict[str, Any],
    jobs: Sequence[Job],
    measure_one: Callable[[Job, float], Row],
    budget: float,
    limit: float,
    done: Callable[[Job, Row], None],
    clock: Clock = time.monotonic,
) -> None:
    """Jobs into a document until the budget is spent; what is left out is said.

    The first job of every contestant comes first and is tried in any case; what it takes beyond
    its share is not taken from the others. How long it took says whether there is time for the
    next of the same contestant, and one that did not end is not begun again.

    Args:
        document: gets the rows, in the order of ``jobs``, and what was left out.
        jobs: by name told apart.
        measure_one: a job and how many seconds it may take at most; its row.
        budget: seconds for all; may be infinite.
        limit: seconds of a job at most.
        done: told each job and its row, once it is in the document.
        clock: seconds.
    """
    places = {job.name: place for place, job in enumerate(jobs)}
    taken: dict[str, Row] = {}
    cost: dict[str, float] = {}
    allowed = Budget(budget, len(jobs), clock)
    for job in in_turn(jobs, lambda job: job.contestant):
        known = cost.get(job.contestant)
        if known is not None and not known <= allowed.left:
            allowed.skip()
            document["left_out"].append(job.name)
            continue
        began, most = clock(), allowed.share if known is None else math.inf
        row = allowed.spend(partial(measure_one, job, limit), most)
        cost[job.contestant] = math.inf if "out_of_time" in row else clock() - began
        taken[job.name] = row
        document["models"] = [taken[name] for name in sorted(taken, key=lambda n: places[n])]
        done(job, row)


def main() -> None:
    options = json.loads(sys.argv[1])
    data = Path(options.pop("data"))
    print(json.dumps(run(Job(**options), data)))


if __name__ == "__main__":
    main()
