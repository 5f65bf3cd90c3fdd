"""The page of a run: results and gallery as one HTML file."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from fastalign.engine.results import Evaluation, ImageResult, order_by_error
from fastalign.report import charts, rejudging, summary
from fastalign.report.gallery import Gallery
from fastalign.report.heat import FOOT, THRESHOLD_POSITION, TOP, css_gradient
from fastalign.report.marks import marks
from fastalign.report.photographs import PAGE_BYTES, Photo, enlarge
from fastalign.verdict import TRUTHS
from fastalign.words import count

if TYPE_CHECKING:
    from jinja2 import Environment


def render_report(
    evaluation: Evaluation,
    gallery: Gallery,
    *,
    most: int = 120,
    order: Sequence[int] | None = None,
    photograph: Callable[[int], Photo] | None = None,
    photograph_bytes: int = PAGE_BYTES,
) -> str:
    """The page as HTML text; it loads nothing from anywhere and names from the data are escaped.

    Args:
        evaluation: the results; of images without any label, a page of predictions.
        gallery: pictures stored under the indices of ``evaluation.images``.
        most: images shown at most; the worst are kept and the page states the count.
        order: indices of the images to show, in this order, in place of the worst.
        photograph: reads a photograph again by its index, for enlarging; None: the small ones are
            enlarged.
        photograph_bytes: what all of these take in the page at most.
    """
    if order is None:
        order = order_by_error(evaluation.images, evaluation.image_threshold)[: max(0, most)]
    labelled = any(item.label >= 0 for item in evaluation.images)
    alignment = summary.alignment(evaluation.images)
    limit, curve = evaluation.pixel_threshold, evaluation.learning_curve
    page = templates().from_string(own_files("page.html.j2"))
    return page.render(
        evaluation=evaluation,
        labelled=labelled,
        classes=Counter(item.label for item in evaluation.images),
        facts=summary.facts(evaluation),
        verdicts=summary.verdicts(evaluation, labelled),
        figures=summary.figures(evaluation) if labelled else [],
        charts=_charts(evaluation, labelled),
        alignment=alignment,
        learning=[] if curve is None else curve.rows(),
        cards=_cards(evaluation, gallery, order, labelled),
        photographs=_photographs(order, photograph, photograph_bytes),
        defects=sorted({item.defect for item in evaluation.images if item.label == 1}),
        total=len(evaluation.images),
        shown=len(order),
        protocol=summary.protocol(evaluation),
        gradient=css_gradient(),
        scaled=limit is not None and math.isfinite(limit) and limit > 0,
        scale=(FOOT, TOP, 100 * THRESHOLD_POSITION),
        scores=rejudging.document(evaluation),
        style=own_files("page.css", "threshold.css"),
        script=own_files("threshold.js", "page.js"),
    )


def own_files(*names: str) -> str:
    """The text of this package's files, one after the other."""
    folder = files("fastalign.report")
    return "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)


def templates() -> Environment:
    """What renders pages: text from the data is escaped, and a name that is missing is an error."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = summary.number
    environment.filters["count"] = count
    return environment


def _charts(evaluation: Evaluation, labelled: bool) -> dict[str, str]:
    images = [item for item in evaluation.images if item.counted]
    threshold = evaluation.image_threshold
    kinds = [_kind(item, labelled) for item in images]
    if not {"good", "anomaly"} & set(kinds):
        # Nothing tells them apart, and no legend says so.
        kinds = ["good"] * len(kinds)
    good, anomalous = (
        [item.score for item, kind in zip(images, kinds, strict=True) if kind == wanted]
        for wanted in ("good", "anomaly")
    )
    result = {
        "histogram": charts.histogram(good, anomalous, threshold),
        "roc": "",
        "pro": "",
        "residual": charts.before_after(
            [item.alignment.residual_before for item in images],
            [item.alignment.residual_after for item in images],
            kinds,
        ),
        "others": "",
    }
    if set(kinds) - {"good", "anomaly"}:
        result["others"] = "without a label" if labelled else "unsure"
    for name, label in (("image_auroc", "image AUROC"), ("aupro_30", "AUPRO 0.30")):
        curve = evaluation.learning_curve
        values = [(one.photographs, getattr(one, name)) for one in curve.points] if curve else []
        known = [(number, value) for number, value in values if value is not None]
        result[f"learning_{name}"] = charts.by_number(known, label)
    for name, limit, note, labels in (
        ("roc", 1.0, ("AUROC", "image_auroc"), ("false positive rate", "true positive rate")),
        (
            "pro",
            0.3,
            ("AUPRO 0.30:", "aupro_30"),
            ("false positive rate (pixels)", "mean region overlap"),
        ),
    ):
        if name in evaluation.curves:
            x, y = (np.asarray(values, dtype=np.float64) for values in evaluation.curves[name])
            figure = f"{note[0]} {summary.number(evaluation.metrics.get(note[1]))}"
            line = charts.Curve(x, y)
            result[name] = charts.rate_curve([line], *labels, x_limit=limit, note=figure)
    return result


def _kind(image: ImageResult, labelled: bool) -> str:
    """The class of an image by its label or, where no image has one, by the model's verdict."""
    value = image.label if labelled else image.predicted
    return TRUTHS.get(-1 if value is None else value, "unknown")


def _cards(
    evaluation: Evaluation, gallery: Gallery, indices: Iterable[int], labelled: bool
) -> list[dict[str, Any]]:
    threshold = evaluation.image_threshold
    cards = []
    for rank, index in enumerate(indices):
        image = evaluation.images[index]
        share = image.score / threshold if threshold and threshold > 0 else math.nan
        pictures = gallery.item(index)
        shown, more = marks(image.regions, pictures.own_size, evaluation.pixel_threshold)
        cards.append(
            {
                "rank": rank,
                "image": image,
                "verdict": rejudging.word(image),
                "kind": _kind(image, labelled),
                "share": share if math.isfinite(share) else None,
                "truth": TRUTHS.get(image.label, ""),
                "pictures": pictures,
                "marks": shown,
                "more": more,
            }
        )
    return cards


def _photographs(order: Sequence[int], read: Callable[[int], Photo] | None, budget: int) -> str:
    """What the script enlarges, by the rank of a card, as JSON."""
    found: dict[int, list[str | int]] = {}
    for rank, photo in enumerate([] if read is None else enlarge(order, read, budget)):
        if photo is not None:
            size = photo.width, photo.height, photo.own_width, photo.own_height
            found[rank] = [photo.uri, *size]
    return json.dumps(found)
