"""The ops beside plain PyTorch: ratios, bandwidth, memory, overhead, on the CPU or on CUDA.

    python benchmarks/ops.py --device cpu|cuda [--out FOLDER] [--only REGEX] [--budget SECONDS]

Writes <stem>.json, .csv and .md into FOLDER after every case. ``--list`` names the cases. With
``--keep`` the rows that are there and not measured again stay, so that a run can be made in pieces.
``--prepare K/N`` measures nothing and only fills the caches of the compilers with every N-th case:
several such processes at once save most of the time that a run on CUDA takes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from opbench import report, timing
from opbench.cases import CASES, Case
from opbench.measure import first_line, measure, prepare

from fastalign import ops

RESULTS = Path(__file__).parent / "results"
BACKENDS = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}


def runnable(device: str, wanted: list[str] | None) -> tuple[list[str], dict[str, str]]:
    """Our backends that run here, and why the others do not."""
    reasons = ops.available_backends("warp_affine", torch.empty(0, device=device))
    names = wanted or list(BACKENDS[device])
    able = [name for name in names if reasons.get(name, "no such backend") is None]
    absent = {name: reasons.get(name) or "no such backend" for name in names if name not in able}
    return able, absent


def describe(device: str) -> str:
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return f"{models[0] if models else platform.processor()}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": torch.__version__}
    try:
        found["triton"] = version("triton")
    except PackageNotFoundError:
        pass
    return found


def last_cache_bytes() -> int | None:
    """The CPU's last-level cache as Linux tells it."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        number, unit = re.fullmatch(r"(\d+)([KMG]?)", path.read_text().strip()).groups()
        sizes.append(int(number) << {"": 0, "K": 10, "M": 20, "G": 30}[unit])
    return max(sizes, default=None)


def chosen(options: argparse.Namespace) -> list[Case]:
    cases = [case for case in CASES if re.search(options.only, case.name)]
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
    known = {case.name for case in CASES} - again
    return [row for row in json.loads(path.read_text())["rows"] if row["case"] in known]


def run(options: argparse.Namespace, document: dict[str, Any], backends: list[str]) -> None:
    """Measures the cases until the budget is spent; what is left out is said."""
    began = time.monotonic()
    order = {case.name: place for place, case in enumerate(CASES)}
    document["copy_bytes_per_second"] = copy = timing.copy_bandwidth(options.device)
    for case in chosen(options):
        if time.monotonic() - began > options.budget:
            document["left_out"].append(case.name)
            continue
        try:
            row = measure(case, options.device, backends, options.seconds)
        except Exception as error:
            row = {**vars(case), "case": case.name, "contestants": {}, "failed": first_line(error)}
            row.update(dtype=str(case.dtype), storage=str(case.storage), bytes=case.bytes())
        document["rows"].append(row)
        document["rows"].sort(key=lambda row: order[row["case"]])
        report.write(document, options.out, options.name)
        print(report.line(row, copy), flush=True)
    # The chip's clocks may have changed meanwhile.
    document["copy_bytes_per_second_after"] = timing.copy_bandwidth(options.device)
    report.write(document, options.out, options.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=BACKENDS, default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--name", help="stem of the files; default ops_<device>")
    parser.add_argument("--only", default="", help="cases whose name this expression finds")
    parser.add_argument("--backends", nargs="+", help="ours to measure; default all of the device")
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
        options.seconds = 0.15 if options.device == "cuda" else 2.0
    torch.set_num_threads(options.threads)
    backends, absent = runnable(options.device, options.backends)
    for name, reason in absent.items():
        print(f"without {name}: {reason}", flush=True)
    if options.prepare:
        for case in chosen(options):
            prepare(case, options.device, backends)
        return
    document: dict[str, Any] = {
        "device": describe(options.device),
        "device_type": options.device,
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "last_cache_bytes": last_cache_bytes(),
        "absent": absent,
        "left_out": [],
        "rows": kept_rows(options),
    }
    run(options, document, backends)


if __name__ == "__main__":
    main()
