"""The ops beside plain PyTorch: ratios, bandwidth, memory, overhead, on the CPU or on CUDA.

    python benchmarks/ops.py --device cpu|cuda [--out FOLDER] [--only REGEX] [--budget SECONDS]

Writes <stem>.json, .csv and .md into FOLDER after every case. ``--list`` names the cases. With
``--keep`` the rows that are there and not measured again stay, so that a run can be made in pieces.
``--prepare K/N`` measures nothing and only fills the caches of the compilers with every N-th case:
several such processes at once save most of the time that a run on CUDA takes.

``--plan "mahalanobis.cpu: width=4"`` forces a launch plan: one more contestant beside the kernel's
own choice, without a rebuild. ``--plan "mahalanobis.cpu: width, threads=1|2"`` sweeps all widths
with one thread and with two. It may be repeated, and goes well with ``--alone``, which leaves the
baselines out; ``fastalign info --all`` lists kernels and fields.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import torch

from fastalign.bench import oprun, plans, setting, summary
from fastalign.bench.cases import CASES, GRID, Case
from fastalign.bench.measure import prepare
from fastalign.errors import ConfigError

RESULTS = Path(__file__).parent / "results"


def chosen(options: argparse.Namespace) -> list[Case]:
    every = GRID if options.grid else CASES
    cases = [case for case in every if re.search(options.only, case.name)]
    if options.prepare:
        part, parts = map(int, options.prepare.split("/"))
        cases = cases[part - 1 :: parts]
    return cases


def kept_rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of an earlier piece of the same run, without those that are measured now."""
    path = options.out / f"{options.name}.json"
    if not options.keep or not path.exists():
        return []
    again = {case.name for case in chosen(options)}
    known = {case.name for case in GRID} - again
    return [row for row in json.loads(path.read_text())["rows"] if row["case"] in known]


def run(options: argparse.Namespace, document: dict[str, Any], backends: list[str]) -> None:
    def done(row: dict[str, Any]) -> None:
        summary.write(document, options.out, options.name)
        print(summary.line(row, document["copy_bytes_per_second"]), flush=True)

    cases, seconds, budget = chosen(options), options.seconds, options.budget
    forced = options.forced
    oprun.run_cases(
        document, cases, GRID, backends, seconds, budget, done, forced=forced, alone=options.alone
    )
    summary.write(document, options.out, options.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=setting.BACKENDS, default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--name", help="stem of the files; default ops_<device>")
    parser.add_argument("--only", default="", help="cases whose name this expression finds")
    parser.add_argument(
        "--grid", action="store_true", help="every op, mode, dtype, layout and shape: hours"
    )
    parser.add_argument("--backends", nargs="+", help="ours to measure; default all of the device")
    parser.add_argument(
        "--plan",
        action="append",
        default=[],
        metavar="PLAN",
        help="launch plans to force",
    )
    parser.add_argument("--alone", action="store_true", help="without the baselines")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--seconds", type=float, help="of measuring, per contestant")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds for all")
    parser.add_argument("--prepare", metavar="K/N", help="fill the compilers' caches only")
    parser.add_argument("--keep", action="store_true", help="rows of other cases stay")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    options = parser.parse_args()
    if options.list:
        print("\n".join(case.name for case in chosen(options)))
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("this torch sees no CUDA device")
    options.name = options.name or f"ops_{options.device}"
    if options.seconds is None:
        options.seconds = oprun.SECONDS[options.device]
    torch.set_num_threads(options.threads)
    backends, absent = setting.runnable(options.device, options.backends)
    for name, reason in absent.items():
        print(f"without {name}: {reason}", flush=True)
    if options.prepare:
        for case in chosen(options):
            prepare(case, options.device, backends)
        return
    try:
        options.forced = plans.read(options.plan, chosen(options), backends)
    except ConfigError as error:
        parser.error(str(error))
    document = setting.document(options.device, absent)
    document["rows"] = kept_rows(options)
    run(options, document, backends)


if __name__ == "__main__":
    main()
