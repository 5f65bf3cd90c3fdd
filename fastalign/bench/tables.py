"""The tables of a run of the ops in Markdown: required ratios, times, small maps."""

from __future__ import annotations

import math
from statistics import geometric_mean

from fastalign.bench.cases import CASES, GOALS, Goal
from fastalign.bench.outcomes import BASELINES, format_number, format_times, ours, ratio
from fastalign.bench.rows import Row, share_of_copy, under_load


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
            cells += [format_times(ratio(row, entry, name)) for name in BASELINES]
            if cuda:
                cells += [
                    format_times(ratio(row, entry, n, "graph_ms")) for n in ("compiled", "eager")
                ]
            share = share_of_copy(row, entry, copy)
            loaded = " (under load)" if under_load(row) else ""
            cells += ["-" if share is None else f"{share:.0%}", format_number(entry["ms"]) + loaded]
            if cuda:
                cells.append(format_number(entry.get("graph_ms")))
            peaks = [
                row["contestants"][name].get("peak_bytes")
                for name in ("compiled", "eager", "cdist")
                if name in row["contestants"]
            ]
            least = min((peak for peak in peaks if peak is not None), default=None)
            cells += [format_number(entry.get("peak_bytes"), 1e6), format_number(least, 1e6)]
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
                    f"{format_number(entry.get('graph_ms'), 1e-3)} |"
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
