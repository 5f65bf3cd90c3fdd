"""Variants of CUDA kernels against each other: built, checked against float64, timed in turns.

    python tools/arena.py [--only REGEX] [--variant "OP: NAME=VALUE, ..."] [--budget 240] [--out F]

A few minutes of a GPU decide a design: compile-time constants and launch plans
(gpucheck/variants.py), each held against the float64 reference as the benchmarks hold theirs, and
timed as replays of CUDA graphs with other data in the second-level cache before. The table comes
last.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from cuda_compile.toolchain import nvcc

from fastalign.bench import gate, timing
from fastalign.bench.cases import CASES, Case
from fastalign.bench.measure import first_line
from fastalign.ops import backends, triton_kernels
from gpucheck.variants import AS_BUILT, Variant, VariantError, chosen

SECONDS = 0.1  # of measuring, per variant
BUILDS = 0.6  # of the budget, at most
TRITON = "Triton"
Timer = Callable[[timing.Works], timing.Times]
Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What the rows are of.

    Attributes:
        device: of the tensors.
        kernels: those of each variant, or why it is not there.
        timer: milliseconds of several works, taken in turns.
        copy: bytes a second of a copy, or None.
    """

    device: str
    kernels: Mapping[Variant, Any]
    timer: Timer
    copy: float | None = None


def arena_cases(ops: Sequence[str], only: str = "") -> list[Case]:
    """The benchmark's chosen cases of these ops whose kernels are timed: none of small maps."""
    return [
        case
        for case in CASES
        if case.op in ops and not case.small and case.rank is None and re.search(only, case.name)
    ]


def measure(case: Case, setting: Setting) -> Row:
    """One case: each variant's check, and the times of those that are right."""
    inputs = case.inputs(setting.device)
    against = gate.yardstick(case, inputs)
    entries: dict[str, Row] = {}
    works: timing.Works = {}

    def take(name: str, backend: str) -> None:
        work = case.ours(backend)
        try:
            errors, wrong = gate.judge(work(*inputs), against, baseline=False)
        except Exception as error:
            errors, wrong = [], first_line(error)
        entries[name] = {"errors": errors} if wrong is None else {"wrong": wrong}
        if wrong is None:
            works[name] = lambda: work(*inputs)

    with ExitStack() as stack:
        for variant, kernels in setting.kernels.items():
            if variant.op != case.op:
                continue
            if isinstance(kernels, str):
                entries[variant.name] = {"wrong": kernels}
                continue
            name = f"{variant.op}/{variant.name}"
            stack.enter_context(backends.added(name, lambda op, of=kernels: getattr(of, op)))
            take(variant.name, name)
            entries[variant.name]["reason"] = variant.reason
        if triton_kernels.cannot_run(case.op, *inputs[:1]) is None:
            take(TRITON, "triton")
        for name, times in setting.timer(works).items():
            entries[name]["ms"] = median(times)
    row: Row = {"case": case.name, "bytes": case.bytes(), "variants": entries}
    return row | ({"copy_bytes_per_second": setting.copy} if setting.copy else {})


def table(rows: Sequence[Row]) -> str:
    """Markdown: for each case its variants, the fastest first, those without a time last."""
    lines = []
    for row in rows:
        lines += [f"### {row['case']}", "", "| variant | us | to as built | of copy | |"]
        lines.append("|---|---:|---:|---:|---|")
        entries = row["variants"]
        base = entries.get(AS_BUILT, {}).get("ms")
        for name, entry in sorted(entries.items(), key=lambda one: one[1].get("ms", float("inf"))):
            ms, words = entry.get("ms"), entry.get("wrong") or entry.get("reason", "")
            if ms is None:
                lines.append(f"| {name} | | | | **{words.splitlines()[0]}** |")
                continue
            share = _share(row, ms)
            ratio = f"{ms / base:.2f}" if base else ""
            lines.append(f"| {name} | {1000 * ms:.1f} | {ratio} | {share} | {words} |")
        lines.append("")
    return "\n".join(lines)


def _share(row: Row, ms: float) -> str:
    copy = row.get("copy_bytes_per_second")
    return f"{100 * row['bytes'] / (ms / 1000) / copy:.0f} %" if copy else ""


def good(rows: Sequence[Row]) -> bool:
    """Whether the kernels as they are gave right results wherever they were tried."""
    built = [row["variants"][AS_BUILT] for row in rows if AS_BUILT in row["variants"]]
    return bool(built) and all("wrong" not in entry for entry in built)


def run(
    cases: Sequence[Case],
    setting: Setting,
    until: float,
    done: Callable[[list[Row], list[str]], None],
    clock: Callable[[], float] = time.monotonic,
) -> list[Row]:
    """The cases one after the other while there is time; ``done`` is told rows and what is left."""
    rows: list[Row] = []
    for place, case in enumerate(cases):
        if rows and clock() >= until:
            done(rows, [left.name for left in cases[place:]])
            break
        rows.append(measure(case, setting))
        done(rows, [])
    return rows


def replays(works: timing.Works) -> timing.Times:
    """The timer of a GPU."""
    return timing.on_cuda({name: timing.capture(work) for name, work in works.items()}, SECONDS)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="cases whose names have this regular expression")
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        help='in place of the default ones, for example "pairwise_distance: kPairImages=4, '
        'threads=64"; several may be given',
    )
    parser.add_argument("--budget", type=float, default=240, help="seconds for everything")
    parser.add_argument("--out", type=Path, help="folder for arena.md and arena.json")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    began = time.monotonic()
    if not torch.cuda.is_available():
        raise SystemExit("error: the arena times kernels on a GPU, and torch finds none here")
    if nvcc() is None:
        raise SystemExit("error: nvcc was not found, which compiles the variants; set NVCC")
    from cuda_on_cpu_support.structs import PLAN_FIELDS

    from gpucheck.variant_builds import on_device

    try:
        variants = chosen(PLAN_FIELDS, options.variant)
        cases = arena_cases([variant.op for variant in variants], options.only)
    except (VariantError, re.error) as error:
        raise SystemExit(f"error: {error}") from None
    if not cases:
        raise SystemExit(f"error: --only {options.only!r}: no case has that in its name")
    wanted = [v for v in variants if any(case.op == v.op for case in cases)]
    until = began + options.budget
    kernels = on_device(wanted, began + BUILDS * options.budget, partial(print, flush=True))
    copy = timing.Copy("cuda").bandwidth(0.3)

    def done(rows: list[Row], left: list[str]) -> None:
        print(f"{rows[-1]['case']}: {time.monotonic() - began:.0f} s", flush=True)
        for name in left:
            print(f"left out, the time is over: {name}", flush=True)
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / "arena.json").write_text(json.dumps({"rows": rows, "left_out": left}))
            (options.out / "arena.md").write_text(table(rows))

    rows = run(cases, Setting("cuda", kernels, replays, copy), until - 5, done)
    print(table(rows))
    return 0 if good(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
