"""Rows as JSON, CSV and Markdown: failures first, then ratios, then times."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from fastalign.bench import plans
from fastalign.bench.cases import CASES, GOALS, Goal
from fastalign.bench.measure import OURS
from fastalign.bench.rows import (
    as_csv,
    load_of,
    share_of_copy,
    under_load,
    verdict,
    write_texts,
)
from fastalign.bench.timing import CALLS
from fastalign.load import Load

Row = dict[str, Any]
BASELINES = ("compiled", "eager", "loop", "cdist", "kornia", "torchvision", "anomalib", "memcpy")


def ours(row: Row, planned: bool = False) -> Iterable[tuple[str, dict[str, Any]]]:
    """Backend and entry of each of our contestants; ``planned``: those under forced plans, too."""
    for name, entry in row["contestants"].items():
        if name.startswith(OURS) and (planned or "plan" not in entry):
            yield name.partition("/")[2], entry


def ratio(row: Row, entry: dict[str, Any], baseline: str, key: str = "ms") -> float | None:
    """How many times the baseline's time is ours; None where either was not measured."""
    theirs = row["contestants"].get(baseline, {}).get(key)
    return theirs / entry[key] if theirs and entry.get(key) else None


def failures(rows: list[Row]) -> list[str]:
    """Every contestant without a figure, and why."""
    return [
        f"{row['case']}: {name}: {entry['failed']}"
        for row in rows
        for name, entry in row["contestants"].items()
        if "failed" in entry
    ] + [f"{row['case']}: {row['failed']}" for row in rows if "failed" in row]


def absences(rows: list[Row]) -> list[str]:
    """Libraries that were asked for and are not here, each once."""
    found = {
        f"{name}: {entry['absent']}"
        for row in rows
        for name, entry in row["contestants"].items()
        if "absent" in entry
    }
    return sorted(found)


def out_of_time(rows: list[Row]) -> list[str]:
    """Contestants that there was no time for, and why."""
    return [
        f"{row['case']}: {name}: {entry['out_of_time']}"
        for row in rows
        for name, entry in row["contestants"].items()
        if "out_of_time" in entry
    ]


def remark(row: Row) -> str:
    """What a line of a terminal says behind a row that was taken under load."""
    load = load_of(row)
    return f" [under load: {load.describe()}]" if load is not None and load.busy else ""


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}x"


def _number(value: float | None, unit: float = 1.0) -> str:
    return "-" if value is None else f"{value / unit:.3g}"


def _ratios_of(goal: Goal, rows: list[Row], cache: int) -> list[float]:
    """Ratios of our first backend for the cases of a goal, against the fastest it names."""
    cases = {case.name: case for case in CASES}
    found = []
    for row in rows:
        case = cases.get(row["case"])
        if case is None or not goal.covers(case):
            continue
        if goal.beyond_cache and row["bytes"] <= cache:
            continue
        entry = next((entry for _, entry in ours(row)), {})
        all_ratios = [ratio(row, entry, name) for name in goal.against]
        known = [value for value in all_ratios if value]
        if known:
            found.append(min(known))
    return found


def goals_table(rows: list[Row], cache: int, threads: int) -> list[str]:
    """The required ratios beside those found."""
    lines = [
        "| op | against | required | found, geometric mean | found, each | |",
        "|---|---|---|---|---|---|",
    ]
    for goal in GOALS:
        found = _ratios_of(goal, rows, cache)
        if not found:
            continue
        mean = geometric_mean(found)
        if goal.at_least is not None:
            required, value = f">= {goal.at_least:g}x faster", mean
            good, each = mean >= goal.at_least, found
        else:
            required, value = f"<= {goal.at_most:g}x its time", 1 / mean
            good, each = 1 / mean <= (goal.at_most or 0), [1 / one for one in found]
        batch = f", batch {goal.batch}" if goal.batch else ""
        where = ", data beyond the last cache" if goal.beyond_cache else ""
        lines.append(
            f"| {goal.op}, {goal.work}{batch} | {' or '.join(goal.against)}{where} | {required} | "
            f"{value:.2f}x | {', '.join(f'{one:.2f}' for one in each)} | "
            f"{'reached' if good else '**short**'} |"
        )
    lines += _memory_goal(rows, threads)
    return lines if len(lines) > 2 else []


def _memory_goal(rows: list[Row], threads: int) -> list[str]:
    """All pairs of images without a tensor of pairs: what a call takes beside its results."""
    lines = []
    for row in rows:
        if row["op"] != "pairwise_distance" or row["small"] or row["dtype"] != "float32":
            continue
        for _, entry in ours(row):
            if entry.get("peak_bytes") is not None:
                beside = max(0, entry["peak_bytes"] - entry["result_bytes"]) / 1e6 / threads
                lines.append(
                    f"| {row['op']}, {row['work']}, {row['layout']} | memory beside the results | "
                    f"<= 1 MB per thread | {beside:.2f} MB | - | "
                    f"{'reached' if beside <= 1 else '**short**'} |"
                )
    return lines


def cases_table(rows: list[Row], copy: float | None, cuda: bool) -> list[str]:
    """One line per case and backend."""
    graph = ["compiled, graphs", "eager, graphs"] if cuda else []
    head = ["op", "shape", "dtype, layout", "backend", *BASELINES, *graph]
    head += ["of copy", "ms", *(["graph ms"] if cuda else []), "MB", "baseline MB", "error"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        kind = row["dtype"] + (f", {row['layout']}" if row["layout"] != "contiguous" else "")
        if row["storage"] != "float32":
            kind += f", {row['storage']} factors"
        for backend, entry in ours(row):
            cells = [f"{row['op']}, {row['work']}", "x".join(map(str, row["shape"])), kind, backend]
            if "ms" not in entry:
                why = "out of time" if "out_of_time" in entry else "**no figure**"
                lines.append("| " + " | ".join([*cells, why]) + " |")
                continue
            cells += [_times(ratio(row, entry, name)) for name in BASELINES]
            if cuda:
                cells += [_times(ratio(row, entry, n, "graph_ms")) for n in ("compiled", "eager")]
            share = share_of_copy(row, entry, copy)
            loaded = " (under load)" if under_load(row) else ""
            cells += ["-" if share is None else f"{share:.0%}", _number(entry["ms"]) + loaded]
            if cuda:
                cells.append(_number(entry.get("graph_ms")))
            peaks = [
                row["contestants"][name].get("peak_bytes")
                for name in ("compiled", "eager", "cdist")
                if name in row["contestants"]
            ]
            least = min((peak for peak in peaks if peak is not None), default=None)
            cells += [_number(entry.get("peak_bytes"), 1e6), _number(least, 1e6)]
            cells.append(f"{max(entry.get('errors') or [math.nan]):.1e}")
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def overhead_table(rows: list[Row]) -> list[str]:
    """Microseconds per call on small maps, and of the replay of a CUDA graph: the medians that the
    table of times has in milliseconds."""
    lines = [
        "| op | shape | contestant | call, us | graph replay, us |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        for name, entry in row["contestants"].items():
            if "ms" in entry and row.get("calls_per_sample", 1) > 1:
                shape = "x".join(map(str, row["shape"]))
                lines.append(
                    f"| {row['op']}, {row['work']} | {shape} | {name} | "
                    f"{1000 * entry['ms']:.1f} | "
                    f"{_number(entry.get('graph_ms'), 1e-3)} |"
                )
    return lines if len(lines) > 2 else []


def faster_of_two(rows: list[Row]) -> list[str]:
    """Which of our CUDA backends is the faster one, by op: geometric mean of graph times."""
    by_op: dict[str, list[float]] = {}
    for row in rows:
        times = {backend: entry.get("graph_ms") or entry.get("ms") for backend, entry in ours(row)}
        cuda, triton = times.get("cuda"), times.get("triton")
        if cuda and triton:
            by_op.setdefault(f"{row['op']}, {row['work']}", []).append(triton / cuda)
    return [
        f"- {op}: triton takes {geometric_mean(found):.2f}x the time of cuda "
        f"(from {min(found):.2f} to {max(found):.2f})"
        for op, found in by_op.items()
    ]


def markdown(document: dict[str, Any]) -> str:
    """The whole report."""
    rows, cuda = document["rows"], document["device_type"] == "cuda"
    copy = document.get("copy_bytes_per_second")
    failed = failures(rows)
    parts = [["# The ops, measured"], [_setting(document)]]
    if failed:
        parts.append(["## Without a figure", "", *(f"- {line}" for line in failed)])
    late = [*out_of_time(rows), *document.get("left_out", [])]
    if late:
        parts.append(["## Out of time", "", *(f"- {line}" for line in late)])
    absent = absences(rows)
    if absent:
        parts.append(["## Not installed", "", *(f"- {line}" for line in absent)])
    cache, threads = document.get("last_cache_bytes") or 0, document.get("threads") or 1
    goals = [] if cuda else goals_table(rows, cache, threads)
    if goals:
        parts.append(["## Required", "", *goals])
    both = faster_of_two(rows)
    if both:
        parts.append(["## CUDA C++ and Triton", "", *both])
    planned = plans.table(rows, "graph_ms" if cuda else "ms")
    if planned:
        parts.append(["## Forced plans", "", _PLANS, "", *planned])
    parts.append(["## Times", "", _legend(cuda), "", *cases_table(rows, copy, cuda)])
    overhead = overhead_table(rows)
    if overhead:
        parts.append(["## Small maps", "", _SMALL_MAPS, "", *overhead])
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _setting(document: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {text}" for name, text in document["versions"].items())
    lines = [f"{document['device']}; {packages}.", copy_speed(document), provenance(document)]
    return "\n\n".join(line for line in lines if line)


def copy_speed(document: dict[str, Any]) -> str:
    """What a copy moves: the median beside the rows, and how far it goes."""
    copy = document.get("copy_bytes_per_second")
    if not copy:
        return ""
    speeds = (row.get("copy_bytes_per_second") for row in document["rows"])
    beside = [speed / 1e9 for speed in speeds if speed]
    text = f"A copy moves {copy / 1e9:.0f} GB/s, read and written"
    if len(beside) < 2:
        return text + "."
    return (
        f"{text}: the median of {len(beside)} measurements, one beside each row, from "
        f"{min(beside):.0f} to {max(beside):.0f}."
    )


def provenance(document: dict[str, Any]) -> str:
    """Command, commit, and load: before the run, and how many rows were taken under it."""
    parts = []
    if document.get("command"):
        parts.append(f"{document['command']}, commit {document.get('commit') or 'unknown'}")
    if document.get("forced_plans"):
        parts.append(f"launch plans forced: {document['forced_plans']}")
    if document.get("measured"):
        parts.append(document["measured"])
    if document.get("load"):
        parts.append(f"before it {Load.from_json(document['load']).describe()}")
    known = [row for row in (*document["rows"], *document.get("models", [])) if "load" in row]
    if known:
        loaded = sum(under_load(row) for row in known)
        parts.append(f"{loaded} of {len(known)} rows taken under load")
    return "; ".join(parts) + "." if parts else ""


_SMALL_MAPS = (
    f"What a call costs: each sample is the mean of {CALLS} calls in a row, samples of the "
    "contestants in turns. The table above has the same medians, in milliseconds."
)


_PLANS = (
    "Contestants whose launch plan was forced, the fastest first. `as chosen` is the kernel's own "
    "choice, measured in the same turns and with the same switch around each call."
)


def _legend(cuda: bool) -> str:
    text = (
        "Medians, contestants in turns in one process. `compiled` and the like: how many times the "
        "baseline's time is ours (above 1 we are faster). `of copy`: the bytes that the op has to "
        "move over its time, as a part of the bandwidth of a copy beside it. MB: peak beyond the "
        "inputs, results included; the baseline's is the smallest of compiled, eager and cdist. "
        "Error: the largest relative distance of a result from the float64 reference. "
        "`(under load)`: other work held the cores meanwhile."
    )
    if cuda:
        text += (
            " `ms` is the call as it is made, `graph ms` the replay of a CUDA graph of it, both "
            "with other data in the second-level cache before; `of copy` takes the replay."
        )
    return text


def line(row: Row, copy: float | None) -> str:
    """One case in one line of a terminal."""
    parts = [f"FAILED {row['failed'][:90]}"] if "failed" in row else []
    for backend, entry in ours(row, planned=True):
        if "ms" not in entry:
            parts.append(f"{backend} FAILED {entry.get('failed', verdict(entry))[:90]}")
            continue
        share = share_of_copy(row, entry, copy)
        times = " ".join(
            f"{name} {_times(value)}"
            for name in BASELINES
            if (value := ratio(row, entry, name)) is not None
        )
        parts.append(
            f"{backend} {_number(entry.get('graph_ms') or entry['ms'])} ms "
            f"{'-' if share is None else f'{share:.0%}'} of copy" + (f", {times}" if times else "")
        )
    late = [name for name, entry in row["contestants"].items() if "out_of_time" in entry]
    if late:
        parts.append(f"out of time: {', '.join(late)}")
    return f"{row['case']}: " + "; ".join(parts) + remark(row)


def write(document: dict[str, Any], folder: Path, stem: str) -> None:
    """``<stem>.json``, ``.md`` and ``.csv`` in ``folder``, each replaced in one step."""
    texts = {
        "json": json.dumps(document, indent=1) + "\n",
        "md": markdown(document),
        "csv": as_csv(document),
    }
    write_texts(folder, {f"{stem}.{ending}": text for ending, text in texts.items()})
