"""PNG plots of a run, where matplotlib is installed."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from fastalign.bench import rows
from fastalign.bench.page import ratios
from fastalign.bench.summary import provenance

_MODELS = (("fit_s", "fit, s"), ("latency_p50_ms", "one image, ms"), ("image_auroc", "AUROC"))
_OURS, _OTHER, _SLOWER = "#0072b2", "#8a94a3", "#d55e00"


def write(document: dict[str, Any], out: Path) -> bool:
    """ops.png and models.png, both in any case; False without matplotlib (extra ``bench``)."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    for name, draw in (("ops", _ops), ("models", _models)):
        figure = draw(plt, document)
        told = "\n".join(textwrap.wrap(provenance(document), 150))
        figure.supxlabel(told, fontsize=7, color="#555555")
        figure.savefig(out / f"{name}.png", dpi=120)
        plt.close(figure)
    return True


def _nothing(plt: Any) -> Any:
    figure, axis = plt.subplots(figsize=(9, 1.4), layout="constrained")
    axis.set_axis_off()
    axis.text(0.5, 0.5, "No figure; report.html says why.", ha="center", va="center")
    return figure


def _ops(plt: Any, document: dict[str, Any]) -> Any:
    bars = ratios(document["rows"])
    if not bars:
        return _nothing(plt)
    figure, axis = plt.subplots(figsize=(9, 1.2 + 0.32 * len(bars)), layout="constrained")
    values = [ratio for _, ratio, _ in bars]
    colours = [_OURS if value >= 1 else _SLOWER for value in values]
    drawn = axis.barh([label for label, _, _ in bars], values, color=colours)
    axis.bar_label(drawn, [text for _, _, text in bars], padding=3, fontsize=8)
    axis.set_xscale("log")
    axis.axvline(1, color="black", linewidth=0.8)
    axis.margins(x=0.25)
    axis.invert_yaxis()
    axis.set_xlabel("time of the fastest other contestant over ours")
    return figure


def _models(plt: Any, document: dict[str, Any]) -> Any:
    known = [row for row in document["models"] if "fit_s" in row]
    if not known:
        return _nothing(plt)
    size = (13, 1.6 + 0.3 * len(known))
    figure, axes = plt.subplots(1, 3, figsize=size, sharey=True, layout="constrained")
    names = [
        f"{row['contestant']}, {row['image_size']}, {row['pose']}"
        + (", under load" if rows.under_load(row) else "")
        for row in known
    ]
    colours = [_OURS if row["contestant"].startswith("fastalign") else _OTHER for row in known]
    for axis, (key, title) in zip(axes, _MODELS, strict=True):
        drawn = axis.barh(range(len(known)), [row[key] for row in known], color=colours)
        axis.bar_label(drawn, fmt="%.3g", padding=3, fontsize=8)
        axis.margins(x=0.15)
        axis.set_title(title)
    axes[0].set_yticks(range(len(known)), names)
    axes[0].invert_yaxis()
    return figure
