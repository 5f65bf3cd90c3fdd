"""The flat form of a run: one line per case and contestant, with all that the line depends on."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastalign.bench.timing import QUANTILES

Row = dict[str, Any]

_QUANTILES = [f"p{percent:02d}" for percent in QUANTILES]
COLUMNS = (
    *("case", "op", "mode", "work", "shape", "dtype", "layout", "storage"),
    *("contestant", "backend", "gate", "largest_error", "median_ms"),
    *(f"{name}_ms" for name in _QUANTILES),
    *("calls", "graph_ms", "back_to_back_us", "graph_back_to_back_us"),
    *("bytes", "bytes_per_second", "share_of_copy", "peak_bytes", "result_bytes"),
    *("device", "threads", "torch", "fastalign", "commit"),
)


def share_of_copy(row: Row, entry: dict[str, Any], copy: float | None) -> float | None:
    """The op's necessary bytes over its time, as a part of the bandwidth of a copy."""
    ms = entry.get("graph_ms") or entry.get("ms")
    return row["bytes"] / (ms / 1000) / copy if ms and copy else None


def verdict(entry: dict[str, Any]) -> str:
    """``passed``, or why there is no figure."""
    if "absent" in entry:
        return f"absent: {entry['absent']}"
    return str(entry.get("failed", "passed"))


def flat(document: dict[str, Any]) -> Iterator[Row]:
    """The lines of :data:`COLUMNS`; what was not measured is missing."""
    copy = document.get("copy_bytes_per_second")
    versions = document.get("versions", {})
    setting = {
        "device": document.get("device"),
        "threads": document.get("threads"),
        "torch": versions.get("torch"),
        "fastalign": versions.get("fastalign"),
        "commit": document.get("commit"),
    }
    for row in document["rows"]:
        case = {key: row.get(key) for key in COLUMNS[:8]}
        case["shape"] = "x".join(map(str, row["shape"]))
        for name, entry in row["contestants"].items():
            ms = entry.get("graph_ms") or entry.get("ms")
            yield {
                **case,
                "contestant": name,
                "backend": name.partition("/")[2] or None,
                "gate": verdict(entry),
                "largest_error": max(entry.get("errors") or [], default=None),
                "median_ms": entry.get("ms"),
                **{f"{key}_ms": entry.get(key) for key in _QUANTILES},
                "calls": len(entry.get("samples", [])) or None,
                **{key: entry.get(key) for key in COLUMNS if key in entry},
                "bytes": row["bytes"],
                "bytes_per_second": row["bytes"] / (ms / 1000) if ms else None,
                "share_of_copy": share_of_copy(row, entry, copy),
                **setting,
            }
        if "failed" in row:
            yield {**case, "gate": row["failed"], "bytes": row["bytes"], **setting}


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
