"""A run of the ops in words: the report, where it comes from, and a line of a terminal per case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastalign.bench import plans
from fastalign.bench.outcomes import (
    BASELINES,
    absences,
    failures,
    format_number,
    format_times,
    ours,
    out_of_time,
    ratio,
    remark,
)
from fastalign.bench.rows import Row, as_csv, share_of_copy, under_load, verdict, write_texts
from fastalign.bench.tables import cases_table, faster_of_two, goals_table, overhead_table
from fastalign.bench.timing import CALLS
from fastalign.load import Load


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
            f"{name} {format_times(value)}"
            for name in BASELINES
            if (value := ratio(row, entry, name)) is not None
        )
        parts.append(
            f"{backend} {format_number(entry.get('graph_ms') or entry['ms'])} ms "
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
