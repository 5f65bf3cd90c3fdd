"""The report of a run as one HTML file, with the style of the evaluation's report page."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastalign.bench import charts, outcomes, rows, setting, summary
from fastalign.bench.measure import OURS

_PARTS = {
    "model": "Models",
    "pose": "Pose robustness",
    "resolution": "Resolution",
    "control": "Controls",
}
_MODEL_FIGURES = (
    ("fit_s", "Fit", "s", 1.0),
    ("latency_p50_ms", "One image, median", "ms", 1.0),
    ("peak_bytes", "Peak memory of the process", "MB", 1e-6),
)


def render(document: dict[str, Any]) -> str:
    """The page; it loads nothing from anywhere. What ``document`` lacks is as in an empty run."""
    from fastalign.report.page import own_files, templates

    document = {**setting.BLANK, **document}
    own = files("fastalign.bench")
    template = own.joinpath("page.html.j2").read_text(encoding="utf-8")
    return (
        templates()
        .from_string(template)
        .render(
            document=document,
            style=own_files("page.css") + own.joinpath("page.css").read_text(encoding="utf-8"),
            bars=charts.ratio_bars(ratios(document["rows"])),
            lines=list(rows.flat(document)),
            failed=outcomes.failures(document["rows"]) + _failed_models(document["models"]),
            absent=_absent(document),
            late=outcomes.out_of_time(document["rows"]) + document["left_out"],
            loaded=[line for row in _all(document) if (line := _loaded(row))],
            provenance=summary.provenance(document),
            copy_speed=summary.copy_speed(document),
            parts=[part for name in _PARTS if (part := _part(document, name))],
            backends=sorted(document["absent"].items()),
            versions=document["versions"],
        )
    )


def ratios(of_rows: list[dict[str, Any]]) -> list[tuple[str, float, str]]:
    """For each case our first backend beside the fastest of the others that computes the same."""
    found = []
    for row in of_rows:
        ours = next((entry for _, entry in outcomes.ours(row) if "ms" in entry), None)
        others = {
            name: entry["ms"]
            for name, entry in row["contestants"].items()
            if "ms" in entry and not name.startswith(OURS) and name != "memcpy"
        }
        if ours is None or not others:
            continue
        fastest = min(others, key=lambda name: others[name])
        ratio = others[fastest] / ours["ms"]
        words = [row["op"], row["work"], "x".join(map(str, row["shape"]))]
        words += [row["dtype"]] * (row["dtype"] != "float32")
        words += [row["layout"]] * (row["layout"] != "contiguous")
        if row["storage"] != "float32":
            words.append(f"{row['storage']} factors")
        label = ", ".join(words)
        loaded = ", under load" if rows.under_load(row) else ""
        found.append((label, ratio, f"{ratio:.2g}x {fastest}{loaded}"))
    return found


def _all(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [*document["rows"], *document["models"]]


def _loaded(row: dict[str, Any]) -> str | None:
    """A row that was taken under load, and which."""
    load = rows.load_of(row)
    if load is None or not load.busy:
        return None
    name = row.get("case") or f"{row['contestant']}, {row['image_size']}, {row['pose']}"
    return f"{name}: {load.describe()}"


def _failed_models(of_models: list[dict[str, Any]]) -> list[str]:
    return [
        f"{row['part']}: {row['contestant']}: {why}"
        for row in of_models
        if "absent" not in row and (why := rows.verdict(row)) != "passed"
    ]


def _absent(document: dict[str, Any]) -> list[str]:
    models = {f"{r['contestant']}: {r['absent']}" for r in document["models"] if "absent" in r}
    return outcomes.absences(document["rows"]) + sorted(models)


def _digits(value: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _part(document: dict[str, Any], name: str) -> dict[str, Any] | None:
    lines = [row for row in document["models"] if row["part"] == name]
    if not lines:
        return None
    known = [row for row in lines if "fit_s" in row]
    lines = [{**row, "why": rows.verdict(row), "loaded": rows.under_load(row)} for row in lines]
    figures = []
    if name == "model":
        for key, title, unit, scale in _MODEL_FIGURES:
            bars = [
                (row["contestant"], row[key] * scale, f"{_digits(row[key] * scale)} {unit}")
                for row in known
                if row.get(key) is not None
            ]
            figures.append({"title": title, "chart": charts.value_bars(bars, title)})
    return {"title": _PARTS[name], "rows": lines, "figures": figures}
