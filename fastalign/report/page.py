"""The report page: an evaluation and its gallery as one HTML file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from fastalign.engine.results import Evaluation, ImageResult, order_by_error
from fastalign.report import charts
from fastalign.report.gallery import Gallery
from fastalign.report.heat import THRESHOLD_POSITION, css_gradient

if TYPE_CHECKING:
    from jinja2 import Environment

_TILES = (
    ("image_auroc", "Image AUROC", "good against anomalous images"),
    ("image_ap", "Image AP", "average precision"),
    ("image_f1max", "Image F1-max", "best over all thresholds"),
    ("pixel_auroc", "Pixel AUROC", "all pixels pooled"),
    ("pixel_ap", "Pixel AP", "average precision"),
    ("aupro_30", "AUPRO 0.30", "region overlap, FPR up to 0.30"),
    ("aupro_05", "AUPRO 0.05", "region overlap, FPR up to 0.05"),
)


def render_report(
    evaluation: Evaluation,
    gallery: Gallery,
    *,
    most: int = 120,
    order: Sequence[int] | None = None,
) -> str:
    """The page as HTML text; it loads nothing from anywhere and names from the data are escaped.

    Args:
        evaluation: the results.
        gallery: pictures stored under the indices of ``evaluation.images``.
        most: images shown at most; the worst are kept and the page states the count.
        order: indices of the images to show, in this order, in place of the worst.
    """
    if order is None:
        order = order_by_error(evaluation.images, evaluation.image_threshold)[: max(0, most)]
    labelled = any(item.label >= 0 for item in evaluation.images)
    folder = files("fastalign.report")
    page = templates().from_string(folder.joinpath("page.html.j2").read_text(encoding="utf-8"))
    return page.render(
        evaluation=evaluation,
        labelled=labelled,
        tiles=_tiles(evaluation) if labelled else [],
        verdicts=_verdicts(evaluation) if labelled else None,
        charts=_charts(evaluation, labelled),
        alignment=_alignment(evaluation.images),
        cards=_cards(evaluation, gallery, order, labelled),
        defects=sorted({item.defect for item in evaluation.images if item.label == 1}),
        total=len(evaluation.images),
        shown=len(order),
        wrong=sum(item.wrong for item in evaluation.images),
        gradient=css_gradient(),
        threshold_position=100 * THRESHOLD_POSITION,
        style=folder.joinpath("page.css").read_text(encoding="utf-8"),
        script=folder.joinpath("page.js").read_text(encoding="utf-8"),
    )


def templates() -> Environment:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    return environment


def _number(value: float | None, digits: int = 3) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:.{digits}f}"


def _tiles(evaluation: Evaluation) -> list[dict[str, Any]]:
    tiles = [
        {
            "name": name,
            "value": _number(evaluation.metrics.get(key)),
            "hint": evaluation.reasons.get(key, hint),
            "missing": evaluation.metrics.get(key) is None,
        }
        for key, name, hint in _TILES
    ]
    aligning = evaluation.alignment_ms_per_image
    share = "median, one image at a time"
    if aligning is not None:
        share += f"; {aligning:.1f} ms of it aligning"
    tiles.append(
        {
            "name": "Time per image",
            "value": "–"
            if evaluation.ms_per_image is None
            else f"{evaluation.ms_per_image:.1f} ms",
            "hint": evaluation.reasons.get("ms_per_image", share),
            "missing": evaluation.ms_per_image is None,
        }
    )
    memory = evaluation.peak_rss_mb
    tiles.append(
        {
            "name": "Peak memory",
            "value": "–" if memory is None else f"{memory:.0f} MB",
            "hint": evaluation.reasons.get("peak_rss_mb", "resident, whole process"),
            "missing": memory is None,
        }
    )
    return tiles


def _verdicts(evaluation: Evaluation) -> dict[str, int] | None:
    """Counts at the stored threshold, or None without one."""
    if evaluation.image_threshold is None:
        return None
    images = evaluation.images

    def count(label: int, predicted: int) -> int:
        return sum(item.label == label and item.predicted == predicted for item in images)

    return {
        "passed": count(0, 0),
        "alarms": count(0, 1),
        "found": count(1, 1),
        "missed": count(1, 0),
    }


def _charts(evaluation: Evaluation, labelled: bool) -> dict[str, str]:
    images = evaluation.images
    kinds = [_kind(item, labelled) for item in images]
    good = [item.score for item, kind in zip(images, kinds, strict=True) if kind != "anomaly"]
    anomalous = [item.score for item, kind in zip(images, kinds, strict=True) if kind == "anomaly"]
    result = {
        "histogram": charts.histogram(good, anomalous, evaluation.image_threshold),
        "roc": "",
        "pro": "",
        "residual": charts.before_after(
            [item.alignment.residual_before for item in images],
            [item.alignment.residual_after for item in images],
            [kind == "anomaly" for kind in kinds],
        ),
    }
    curves = evaluation.curves
    if "roc" in curves:
        x, y = (np.asarray(values, dtype=np.float64) for values in curves["roc"])
        note = f"AUROC {_number(evaluation.metrics.get('image_auroc'))}"
        curve = charts.Curve(x, y)
        result["roc"] = charts.rate_curve(
            [curve], "false positive rate", "true positive rate", note=note
        )
    if "pro" in curves:
        x, y = (np.asarray(values, dtype=np.float64) for values in curves["pro"])
        note = f"AUPRO 0.30: {_number(evaluation.metrics.get('aupro_30'))}"
        result["pro"] = charts.rate_curve(
            [charts.Curve(x, y)],
            "false positive rate (pixels)",
            "mean region overlap",
            x_limit=0.3,
            note=note,
        )
    return result


def _alignment(images: list[ImageResult]) -> list[dict[str, str]]:
    """Median and largest value of each diagnostic."""
    rows = []
    for name, unit, digits, values in (
        ("Residual before", "", 3, [item.alignment.residual_before for item in images]),
        ("Residual after", "", 3, [item.alignment.residual_after for item in images]),
        ("Shift", " % of the size", 1, [100 * abs(item.alignment.shift) for item in images]),
        ("Rotation", "°", 1, [abs(item.alignment.rotation) for item in images]),
        ("Scale away from 1", " %", 1, [100 * abs(item.alignment.scale - 1) for item in images]),
        ("Outside the image", " %", 1, [100 * (1 - item.alignment.covered) for item in images]),
    ):
        finite = [value for value in values if value == value]
        if finite:
            rows.append(
                {
                    "name": name,
                    "median": f"{median(finite):.{digits}f}{unit}",
                    "largest": f"{max(finite):.{digits}f}{unit}",
                }
            )
    return rows


def _kind(image: ImageResult, labelled: bool) -> str:
    """The class of an image by its label or, where no image has one, by the model's verdict."""
    value = image.label if labelled else image.predicted
    return {0: "good", 1: "anomaly"}.get(-1 if value is None else value, "unknown")


def _verdict(image: ImageResult) -> str:
    predicted = -1 if image.predicted is None else image.predicted
    if image.label < 0:
        return {0: "good", 1: "anomaly"}.get(predicted, "not judged")
    return {(1, 0): "missed", (0, 1): "false alarm", (1, 1): "found", (0, 0): "passed"}.get(
        (image.label, predicted), "not judged"
    )


def _cards(
    evaluation: Evaluation, gallery: Gallery, indices: Iterable[int], labelled: bool
) -> list[dict[str, Any]]:
    cards = []
    for rank, index in enumerate(indices):
        image = evaluation.images[index]
        cards.append(
            {
                "rank": rank,
                "image": image,
                "verdict": _verdict(image),
                "kind": _kind(image, labelled),
                "pictures": gallery.item(index),
            }
        )
    return cards
