"""The flat form of a run: one line per case and contestant, with all that the line depends on."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastalign.bench.timing import QUANTILES
from fastalign.load import Load

Row = dict[str, Any]

_QUANTILES = [f"p{percent:02d}" for percent in QUANTILES]
COLUMNS = (
    *("case", "op", "mode", "work", "shape", "dtype", "layout", "storage"),
    *("contestant", "backend", "plan", "gate", "largest_error", "median_ms"),
    *(f"{name}_ms" for name in _QUANTILES),
    *("calls", "calls_per_sample", "graph_ms"),
    *("bytes", "bytes_per_second", "copy_bytes_per_second", "share_of_copy"),
    *("peak_bytes", "result_bytes", "load_average", "waited", "under_load"),
    *("device", "threads", "torch", "fastalign", "commit", "command"),
)
# Of a row of either kind, as :func:`load_cells` tells it.
LOAD = ("load_average", "waited", "under_load")


def share_of_copy(row: Row, entry: dict[str, Any], copy: float | None) -> float | None:
    """The op's necessary bytes over its time, as a part of the bandwidth of a copy: of that beside
    the row, else of ``copy``."""
    ms, copy = entry.get("graph_ms") or entry.get("ms"), row.get("copy_bytes_per_second") or copy
    return row["bytes"] / (ms / 1000) / copy if ms and copy else None


def verdict(entry: dict[str, Any]) -> str:
    """``passed``, or why there is no figure."""
    if "absent" in entry:
        return f"absent: {entry['absent']}"
    if "out_of_time" in entry:
        return f"out of time: {entry['out_of_time']}"
    return str(entry.get("failed", "passed"))


def load_of(row: Row) -> Load | None:
    """The load under which a row was taken."""
    return Load.from_json(row["load"]) if row.get("load") else None


def under_load(row: Row) -> bool:
    """Whether other work held the cores while a row was taken."""
    load = load_of(row)
    return load is not None and load.busy


def load_cells(row: Row) -> Row:
    """:data:`LOAD` of a row; empty where it was not measured."""
    load = load_of(row)
    if load is None:
        return dict.fromkeys(LOAD)
    told = load.to_json()
    return {
        "load_average": told["load_average"],
        "waited": told["waited"],
        "under_load": "yes" if load.busy else "no",
    }


def flat(document: dict[str, Any]) -> Iterator[Row]:
    """The lines of :data:`COLUMNS`; what was not measured is None."""
    copy = document.get("copy_bytes_per_second")
    versions = document.get("versions", {})
    setting = {
        "device": document.get("device"),
        "threads": document.get("threads"),
        "torch": versions.get("torch"),
        "fastalign": versions.get("fastalign"),
        "commit": document.get("commit"),
        "command": document.get("command"),
    }
    nothing: Row = dict.fromkeys(COLUMNS)
    for row in document["rows"]:
        case = {key: row.get(key) for key in COLUMNS[:8]}
        case["shape"] = "x".join(map(str, row["shape"]))
        case |= load_cells(row)
        for name, entry in row["contestants"].items():
            ms = entry.get("graph_ms") or entry.get("ms")
            yield {
                **nothing,
                **case,
                "contestant": name,
                "backend": name.partition("/")[2].partition(",")[0] or None,
                "gate": verdict(entry),
                "largest_error": max(entry.get("errors") or [], default=None),
                "median_ms": entry.get("ms"),
                **{f"{key}_ms": entry.get(key) for key in _QUANTILES},
                **{key: entry.get(key) for key in COLUMNS if key in entry},
                "calls": len(entry.get("samples", [])) or None,
                "calls_per_sample": row.get("calls_per_sample", 1) if "samples" in entry else None,
                "copy_bytes_per_second": row.get("copy_bytes_per_second") or copy,
                "bytes": row["bytes"],
                "bytes_per_second": row["bytes"] / (ms / 1000) if ms else None,
                "share_of_copy": share_of_copy(row, entry, copy),
                **setting,
            }
        if "failed" in row:
            yield {**nothing, **case, "gate": row["failed"], "bytes": row["bytes"], **setting}


def as_csv(document: dict[str, Any]) -> str:
    """:func:`flat` as text."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat(document))
    return out.getvalue()


def write_texts(folder: Path, texts: dict[str, str]) -> None:
    """Files of a folder, each replaced in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        beside = folder / f".{name}.part"
        beside.write_text(text, encoding="utf-8")
        beside.replace(folder / name)
