"""The page and the plot of benchmarks/controls.py."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any

from protocol import FIGURES

OURS = ("ours", "ours, no alignment")
TITLES = ("image AUROC", "pixel AUROC", "AUPRO (0.3)")
Row = dict[str, Any]

_NOTES = """Image AUROC / pixel AUROC / AUPRO at FPR 0.3, whole images at 256 x 256, training and \
test photographs turned and shifted alike, mean over seeds {seeds}. All have the same stages of \
the same EfficientNet-Lite0 and learn from the same photographs, without thresholds; `ours` has \
its defaults. `same place` is given the images as `ours` has aligned them, the others as they are. \
What each of them computes, and where it comes from, stands beside its class in \
`fastalign/bench/controls`. Rows are of commits {commits}."""

_TIMES = """`{data}`, all {train} training photographs, one image at a time from image to map, the \
network included, on {threads} threads; `same place` fits our model first, for its poses. {load}"""


def page(document: Row) -> str:
    """Markdown: by poses, by number of photographs, times."""
    rows = document["rows"]
    parts = [table for data in _unique(rows, "data") for table in _by_poses(rows, data)]
    parts += [_by_count(rows, data) for data in _unique(rows, "data")]
    parts.append(_times(document["times"]))
    if rows:
        seeds = ", ".join(map(str, sorted(_unique(rows, "seed"))))
        commits = ", ".join(sorted(str(commit)[:10] for commit in _unique(rows, "commit")))
        parts.append(_NOTES.format(seeds=seeds, commits=commits))
    return "\n\n".join(part for part in parts if part)


def _unique(rows: Iterable[Row], key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))


def _cell(rows: list[Row]) -> str:
    if not rows:
        return "-"
    return " / ".join(f"{mean(row[figure] for row in rows):.3f}" for figure in FIGURES)


def _table(head: str, rows: list[Row], columns: dict[str, Any], key: str) -> str:
    lines = [f"| {head} | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for control in _unique(rows, "control"):
        own = [row for row in rows if row["control"] == control]
        cells = [_cell([row for row in own if row[key] == value]) for value in columns.values()]
        lines.append(f"| {control} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _by_poses(rows: list[Row], data: str) -> list[str]:
    """A table for each number of photographs that was measured in several poses; of the largest
    number where there is none."""
    own = [row for row in rows if row["data"] == data]
    counts = sorted(_unique(own, "photographs"), reverse=True)
    of = {count: [row for row in own if row["photographs"] == count] for count in counts}
    several = [count for count in counts if len(_unique(of[count], "degrees")) > 1]
    tables = []
    for count in several or counts[:1]:
        turns = sorted(of[count], key=lambda row: row["degrees"])
        columns = {row["poses"]: row["degrees"] for row in turns}
        tables.append(_table(f"{data}, {count} photographs", of[count], columns, "degrees"))
    return tables


def _by_count(rows: list[Row], data: str) -> str:
    own = [row for row in rows if row["data"] == data and row["degrees"] == 0]
    counts = sorted(_unique(own, "photographs"))
    if len(counts) < 2:
        return ""
    columns = {f"{count} photographs": count for count in counts}
    return _table(f"{data}, as is", own, columns, "photographs")


def _times(rows: list[Row]) -> str:
    if not rows:
        return ""
    lines = ["| time and size | fit | one image | stored |", "|---|---|---|---|"]
    for row in rows:
        if "fit_s" not in row:
            lines.append(f"| {row['control']} | {row.get('failed', '-')} | - | - |")
            continue
        lines.append(
            f"| {row['control']} | {row['fit_s']:.1f} s | {row['latency_p50_ms']:.1f} ms | "
            f"{row['stored_bytes'] / 1e6:.1f} MB |"
        )
    first = next((row for row in rows if "fit_s" in row), None)
    if first is not None:
        waited = max(row["load"]["waited"] for row in rows if "load" in row)
        load = f"At most {100 * waited:.0f} % of the time was spent waiting for a core."
        lines += ["", _TIMES.format(**first, train=first["train_images"], load=load)]
    return "\n".join(lines)


def plot(document: Row, path: Path) -> None:
    """Figures by number of photographs, of all categories with more than one number."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in document["rows"] if row["degrees"] == 0]
    shown = [
        data
        for data in _unique(rows, "data")
        if len({row["photographs"] for row in rows if row["data"] == data}) > 1
    ]
    if not shown:
        return
    size = (13, 1.2 + 3.4 * len(shown))
    figure, axes = plt.subplots(
        len(shown), len(FIGURES), figsize=size, squeeze=False, layout="constrained"
    )
    for line, data in zip(axes, shown, strict=True):
        own = [row for row in rows if row["data"] == data]
        counts = sorted(_unique(own, "photographs"))
        for axis, key, title in zip(line, FIGURES, TITLES, strict=True):
            for number, control in enumerate(_unique(own, "control")):
                _curve(axis, [row for row in own if row["control"] == control], key, number)
            axis.set_xscale("log")
            axis.set_xticks(counts, map(str, counts))
            axis.minorticks_off()
            axis.set_title(f"{data}: {title}", fontsize=10)
            axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("training photographs")
    handles, labels = axes[0][0].get_legend_handles_labels()
    # Below the axes: curves may run anywhere inside them.
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=110)
    plt.close(figure)


_COLOURS = ("#0072b2", "#0072b2", "#d55e00", "#009e73", "#56b4a0", "#cc79a7", "#cc79a7")
_COLOURS += ("#cc79a7", "#e69f00", "#e69f00", "#777777")
_LINES = ("-", "--", "-", "-", "--", "-", "--", ":", "-", "--", "-")


def _curve(axis: Any, rows: list[Row], key: str, number: int) -> None:
    counts = sorted(_unique(rows, "photographs"))
    values = [mean(row[key] for row in rows if row["photographs"] == count) for count in counts]
    name = rows[0]["control"]
    axis.plot(
        counts,
        values,
        label=name,
        color=_COLOURS[number % len(_COLOURS)],
        linestyle=_LINES[number % len(_LINES)],
        marker="o",
        markersize=3.5,
        linewidth=2.6 if name == OURS[0] else 1.3,
        zorder=3 if name == OURS[0] else 2,
    )
