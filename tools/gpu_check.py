"""Build for this machine's GPU, check everything that needs one, measure, and write it down.

    python3 tools/gpu_check.py [--out FOLDER] [--archs 90] [--steps NAMES] [--keep]
                               [--budget SECONDS]

Installs nothing and needs no network: torch, Triton, pytest and (for the CUDA kernels) nvcc have to
be there, compute-sanitizer is used where it is. Results are written after every step and while
steps run, so that a check that is ended early loses nothing. docs/gpu-check.md says what is
checked. The exit status is 1 where anything failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from gpucheck import environment, inplace, jobs, report
from gpucheck.steps import FAILED, OPTIONAL, STEPS, STOPPED, Context, Step

RESULTS = inplace.ROOT / "benchmarks" / "results" / "gpu"


def slug(name: str) -> str:
    """A file name: ``NVIDIA H100 80GB HBM3`` becomes ``nvidia-h100-80gb-hbm3``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "no-gpu"


def replace_text(path: Path, text: str) -> None:
    """In one step: a file is never half written."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text)
    beside.replace(path)


def without_paths(text: str) -> str:
    """Results are committed: where a machine keeps the checkout is nobody's business."""
    for folder, name in ((inplace.ROOT, "."), (Path(sys.prefix), "PREFIX"), (Path.home(), "~")):
        if len(str(folder)) > 1:
            text = text.replace(str(folder), name)
    return text + "\n"


class Check:
    """The steps one group after the other, and the document that grows with them."""

    def __init__(
        self, context: Context, chosen: list[Step], out: Path, name: str, keep: bool = False
    ) -> None:
        self.context, self.chosen, self.out, self.name = context, chosen, out, name
        self.document: dict[str, Any] = {
            "environment": context.environment,
            "device": context.device,
            "started": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            "finished": False,
            "steps": self.kept() if keep else {},
        }

    def kept(self) -> dict[str, Any]:
        """The steps of the report that is there and that are not run again."""
        path = self.out / f"{self.name}.json"
        known = json.loads(path.read_text())["steps"] if path.exists() else {}
        again = {step.name for step in self.chosen}
        return {name: step for name, step in known.items() if name not in again}

    def save(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        stem = self.out / self.name
        replace_text(Path(f"{stem}.json"), without_paths(json.dumps(self.document, indent=1)))
        text = report.markdown(self.document, self.context.scratch)
        replace_text(Path(f"{stem}.md"), without_paths(text.removesuffix("\n")))
        table = self.context.scratch / "ops.csv"
        if table.exists() and "benchmarks" in self.document["steps"]:
            text = table.read_text().removesuffix("\n")
            replace_text(Path(f"{stem}.csv"), without_paths(text))
        logs = sorted(self.context.scratch.glob("*.log"))
        text = "".join(f"=== {log.stem}\n{log.read_text(errors='replace')}\n" for log in logs)
        replace_text(Path(f"{stem}.log"), text[-8_000_000:])

    def time_for(self, step: Step) -> float:
        """The step's own limit, or what is left when later groups have had their reserve."""
        later: dict[int, float] = {}
        for other in self.chosen:
            if other.group > step.group:
                later[other.group] = max(later.get(other.group, 0), other.reserve)
        return min(step.limit, max(self.context.left() - sum(later.values()), step.reserve / 2))

    def run_group(self, steps: list[Step]) -> None:
        if self.context.left() < 5:
            for step in steps:
                self.document["steps"][step.name] = {"state": STOPPED, "note": "not begun"}
                if step.name == "benchmarks":
                    self.document["steps"][step.name]["cases"] = 0
            self.save()
            return
        began = time.monotonic()
        started = {step.name: step.jobs(self.context, self.time_for(step)) for step in steps}
        limits = {step.name: self.time_for(step) for step in steps}
        print(
            f"{', '.join(f'{n} ({limit:.0f} s at most)' for n, limit in limits.items())}",
            flush=True,
        )

        def save() -> None:
            for step in steps:
                found = step.collect(self.context, started[step.name])
                ended = max((job.seconds for job in started[step.name]), default=0)
                found["seconds"] = round(ended or time.monotonic() - began, 1)
                if any(job.running for job in started[step.name]):
                    found["state"] = "running"
                self.document["steps"][step.name] = found
            self.save()

        jobs.run(
            [job for of_step in started.values() for job in of_step], self.context.scratch, save
        )

    def run(self) -> int:
        self.save()
        try:
            for group in sorted({step.group for step in self.chosen}):
                self.run_group([step for step in self.chosen if step.group == group])
            self.document["finished"] = True
        finally:
            self.save()
            print(report.terminal(self.document, self.context.scratch), flush=True)
        states = [step["state"] for step in self.document["steps"].values()]
        return int(any(state in (FAILED, STOPPED) for state in states))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--archs", help="architectures to build for; default: this GPU's")
    parser.add_argument(
        "--steps",
        default="",
        help=f"of {','.join(STEPS)}; default all but {','.join(OPTIONAL)}; --steps=+NAME,-NAME "
        "adds to the default and takes from it",
    )
    parser.add_argument(
        "--keep", action="store_true", help="steps of the report that is there and not run stay"
    )
    parser.add_argument("--budget", type=float, default=1200, help="seconds for everything")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--backends", help="of cuda,triton (cpu with --device cpu)")
    parser.add_argument("--cores", type=int, help="CPU cores to use; default: all")
    return parser.parse_args(arguments)


def choose(words: str) -> list[Step]:
    """``suite,shapes`` names steps; ``+demo,-sanitizer`` changes the default choice."""
    names = [word for word in words.split(",") if word]
    unknown = [name for name in names if name.lstrip("+-") not in STEPS]
    if unknown:
        raise SystemExit(f"error: there is no step {unknown[0]!r}; one of {', '.join(STEPS)}")
    plain = [name for name in names if name[0] not in "+-"]
    wanted = set(plain) or set(STEPS) - OPTIONAL
    wanted |= {name[1:] for name in names if name[0] == "+"}
    wanted -= {name[1:] for name in names if name[0] == "-"}
    return [step for name, step in STEPS.items() if name in wanted]


def main() -> int:
    options = parse()
    # Ended from outside: say what is known, and leave no process behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    chosen = choose(options.steps)
    os.chdir(inplace.ROOT)
    cores = options.cores or len(os.sched_getaffinity(0))
    found = environment.describe(cores)
    if options.device == "cuda" and not found["gpu"]:
        raise SystemExit("error: nvidia-smi finds no GPU; --device cpu tries the check itself")
    scratch = inplace.ROOT / "build" / "gpu-check"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    default = ["cuda", "triton"] if options.device == "cuda" else ["cpu"]
    context = Context(
        python=sys.executable,
        device=options.device,
        backends=options.backends.split(",") if options.backends else default,
        scratch=scratch,
        cores=cores,
        archs=options.archs
        or os.environ.get("TORCH_CUDA_ARCH_LIST")
        or environment.architecture(found),
        deadline=time.monotonic() + options.budget,
        environment=found,
    )
    name = slug(found["gpu"].get("name", "")) if options.device == "cuda" else "cpu"
    return Check(context, chosen, options.out.resolve(), name, options.keep).run()


if __name__ == "__main__":
    sys.exit(main())
