"""PNG plots of a run, where matplotlib is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastalign.bench.page import ratios


def write(document: dict[str, Any], out: Path) -> bool:
    """ops.png and models.png; False without matplotlib (extra ``bench``)."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    bars = ratios(document["rows"])
    if bars:
        figure, axis = plt.subplots(figsize=(9, 1 + 0.32 * len(bars)), layout="constrained")
        values = [ratio for _, ratio, _ in bars]
        colours = ["#0072b2" if value >= 1 else "#d55e00" for value in values]
        drawn = axis.barh([label for label, _, _ in bars], values, color=colours)
        axis.bar_label(drawn, [text for _, _, text in bars], padding=3, fontsize=8)
        axis.set_xscale("log")
        axis.axvline(1, color="black", linewidth=0.8)
        axis.margins(x=0.25)
        axis.invert_yaxis()
        axis.set_xlabel("time of the fastest other contestant over ours")
        figure.savefig(out / "ops.png", dpi=120)
        plt.close(figure)
    known = [row for row in document["models"] if "fit_s" in row]
    if known:
        figure, axes = plt.subplots(1, 3, figsize=(13, 1.4 + 0.3 * len(known)), sharey=True)
        names = [f"{r['contestant']}, {r['image_size']}, {r['pose']}" for r in known]
        for axis, (key, title) in zip(
            axes,
            (("fit_s", "fit, s"), ("latency_p50_ms", "one image, ms"), ("image_auroc", "AUROC")),
            strict=True,
        ):
            ours = [row["contestant"].startswith("fastalign") for row in known]
            colours = ["#0072b2" if own else "#8a94a3" for own in ours]
            drawn = axis.barh(range(len(known)), [row[key] for row in known], color=colours)
            axis.bar_label(drawn, fmt="%.3g", padding=3, fontsize=8)
            axis.margins(x=0.15)
            axis.set_title(title)
        axes[0].set_yticks(range(len(known)), names)
        axes[0].invert_yaxis()
        figure.tight_layout()
        figure.savefig(out / "models.png", dpi=120)
        plt.close(figure)
    return True
