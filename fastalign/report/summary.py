"""What a page says above its pictures: verdicts, figures, alignment, and how all was made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from fastalign.engine.results import Evaluation, ImageResult
from fastalign.load import Load

_FIGURES = (
    ("image_auroc", "Image AUROC", "good against anomalous images"),
    ("image_ap", "Image AP", "average precision"),
    ("image_f1max", "Image F1-max", "at the best threshold for these images"),
    ("pixel_auroc", "Pixel AUROC", "all pixels pooled"),
    ("pixel_ap", "Pixel AP", "average precision"),
    ("aupro_30", "AUPRO 0.30", "region overlap, FPR up to 0.30"),
    ("aupro_05", "AUPRO 0.05", "region overlap, FPR up to 0.05"),
)


@dataclass(frozen=True)
class Tile:
    """A number with its name and a few words.

    ``state``: ``""``, ``"bad"`` for an error of the model, ``"missing"`` for what is not known.
    """

    name: str
    value: str
    hint: str
    state: str = ""


def number(value: float | None, digits: int = 3) -> str:
    """A number as text, a dash for one that is not known."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}"


def verdicts(evaluation: Evaluation, labelled: bool) -> list[Tile]:
    """What the model says of the images at its threshold; nothing without one."""
    threshold = evaluation.image_threshold
    if threshold is None:
        return []
    images = evaluation.images
    tiles = _mistakes(images) if labelled else _found(images)
    known = {item.path for item in images}
    unread = sum(item.path not in known for item in evaluation.skipped)
    unjudged = unread + sum(item.predicted is None for item in images)
    if unjudged:
        total = len(images) + unread
        tiles.append(Tile("Unsure", f"{unjudged} of {total}", "neither good nor anomalous"))
    if left := sum(not item.counted for item in images):
        hint = "images that the model was fitted on, in no figure"
        tiles.append(Tile("Trained on", f"{left} of {len(images)}", hint, "bad"))
    source = str(evaluation.protocol.get("threshold_source", ""))
    tiles.append(Tile("Image threshold", f"{threshold:.4g}", source))
    return tiles


def _mistakes(images: list[ImageResult]) -> list[Tile]:
    tiles = []
    for label, name, hint in (
        (1, "Missed", "anomalous images called good"),
        (0, "False alarms", "good images called anomalous"),
    ):
        judged = [
            item
            for item in images
            if item.label == label and item.predicted is not None and item.counted
        ]
        wrong = sum(item.wrong for item in judged)
        if judged:
            tiles.append(Tile(name, f"{wrong} of {len(judged)}", hint, "bad" if wrong else ""))
    return tiles


def _found(images: list[ImageResult]) -> list[Tile]:
    judged = [item.predicted for item in images if item.predicted is not None]
    anomalies = sum(judged)
    return [
        Tile("Anomalies", f"{anomalies} of {len(judged)}", "score above the threshold"),
        Tile("Good", f"{len(judged) - anomalies} of {len(judged)}", "score not above it"),
    ]


def figures(evaluation: Evaluation) -> list[Tile]:
    """Figures that look at all thresholds, time and memory."""
    tiles = [
        _tile(evaluation, key, name, number(evaluation.metrics.get(key)), hint)
        for key, name, hint in _FIGURES
    ]
    time, aligning = evaluation.ms_per_image, evaluation.alignment_ms_per_image
    hint = "median, one image at a time"
    if aligning is not None and _moved(evaluation.images):
        hint += f"; {aligning:.1f} ms of it aligning"
    if (load := evaluation.protocol.get("load")) and load.get("busy"):
        hint += "; the machine was busy, which makes it longer"
    shown = "–" if time is None else f"{time:.1f} ms"
    tiles.append(_tile(evaluation, "ms_per_image", "Time per image", shown, hint))
    memory = evaluation.peak_rss_mb
    shown = "–" if memory is None else f"{memory:.0f} MB"
    tiles.append(_tile(evaluation, "peak_rss_mb", "Peak memory", shown, "resident, whole process"))
    return tiles


def _tile(evaluation: Evaluation, key: str, name: str, shown: str, hint: str) -> Tile:
    state = "missing" if shown == "–" else ""
    return Tile(name, shown, evaluation.reasons.get(key, hint), state)


def facts(evaluation: Evaluation) -> list[str]:
    """When, of what, with what and on how busy a machine the page was made."""
    protocol = evaluation.protocol
    found = []
    if written := protocol.get("date"):
        found.append(datetime.fromisoformat(written).strftime("%Y-%m-%d %H:%M %Z").strip())
    found += [_place(protocol[name]) for name in ("data", "model_file") if protocol.get(name)]
    versions = protocol.get("versions", {})
    found += [f"{name} {versions[name]}" for name in ("fastalign", "torch") if name in versions]
    if load := protocol.get("load"):
        found.append(Load.from_json(load).describe())
    return found


def _place(path: str) -> str:
    """A path below the working folder as seen from there, else as it is."""
    try:
        return Path(path).relative_to(Path.cwd()).as_posix()
    except ValueError:
        return str(path)


def protocol(evaluation: Evaluation) -> dict[str, Any]:
    """The protocol by readable names."""
    shown = {}
    for name, value in evaluation.protocol.items():
        value = Load.from_json(value).describe() if name == "load" and value else value
        shown[name.replace("_", " ")] = "not known" if value is None else value
    return shown


def _moved(images: list[ImageResult]) -> bool:
    """Whether any image was moved: where alignment stayed out, all its numbers are idle."""
    return any(
        item.alignment.shift != 0
        or item.alignment.rotation != 0
        or item.alignment.scale != 1
        or item.alignment.covered != 1
        for item in images
    )


def alignment(images: list[ImageResult]) -> list[dict[str, str]]:
    """Median and largest value of each diagnostic that says something; nothing where alignment
    stayed out."""
    rows = []
    for name, unit, digits, values in (
        ("Residual before", "", 3, [item.alignment.residual_before for item in images]),
        ("Residual after", "", 3, [item.alignment.residual_after for item in images]),
        ("Shift", " % of the size", 1, [100 * abs(item.alignment.shift) for item in images]),
        ("Rotation", "°", 1, [abs(item.alignment.rotation) for item in images]),
        ("Scale away from 1", " %", 1, [100 * abs(item.alignment.scale - 1) for item in images]),
        ("Outside the image", " %", 1, [100 * (1 - item.alignment.covered) for item in images]),
    ):
        known = [value for value in values if math.isfinite(value)]
        if known and _moved(images):
            rows.append(
                {
                    "name": name,
                    "median": f"{median(known):.{digits}f}{unit}",
                    "largest": f"{max(known):.{digits}f}{unit}",
                }
            )
    return rows
