"""The page of a comparison: two models' maps of each photograph side by side, as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastalign.report import charts
from fastalign.report.comparison import Compared, Comparison
from fastalign.report.gallery import Gallery
from fastalign.report.heat import FOOT, THRESHOLD_POSITION, TOP, css_gradient
from fastalign.report.page import own_files, templates
from fastalign.report.summary import Tile, number
from fastalign.verdict import TRUTHS


def render_comparison(found: Comparison, galleries: Sequence[Gallery], *, most: int = 120) -> str:
    """The page as HTML text; it loads nothing from anywhere and names from the data are escaped.

    Args:
        found: what was compared.
        galleries: pictures of each model under the positions of ``found.images``.
        most: photographs shown at most, the largest changes first.
    """
    order = found.order()[: max(0, most)]
    sides = [[one.sides[side].relative for one in found.images] for side in (0, 1)]
    known = [
        (before, after, TRUTHS.get(one.label, "") if found.labelled else "good")
        for before, after, one in zip(*sides, found.images, strict=True)
        if before is not None and after is not None
    ]
    chart = charts.scatter(known, "score ÷ threshold of A", "score ÷ threshold of B", line=1.0)
    return (
        templates()
        .from_string(own_files("compare.html.j2"))
        .render(
            found=found,
            tiles=_tiles(found),
            table=found.table(),
            mistakes=[found.mistakes(side) for side in (0, 1)],
            chart=chart,
            cards=[_card(rank, found.images[at], galleries, at) for rank, at in enumerate(order)],
            shown=len(order),
            total=len(found.images),
            gradient=css_gradient(),
            scale=(FOOT, TOP, 100 * THRESHOLD_POSITION),
            style=own_files("page.css", "compare.css"),
            script=own_files("compare.js"),
        )
    )


def _tiles(found: Comparison) -> list[Tile]:
    table, total = found.table(), len(found.images)
    turned = [
        Tile("Change sides", f"{len(found.changed)} of {total}", "their verdicts differ"),
        Tile("Good → anomaly", str(table["good"]["anomaly"]), "good for A, anomalies for B"),
        Tile("Anomaly → good", str(table["anomaly"]["good"]), "anomalies for A, good for B"),
    ]
    if not found.labelled:
        return turned
    mended, broken = found.effects
    for letter, side, auroc in zip("AB", (0, 1), found.auroc, strict=True):
        made = found.mistakes(side)
        wrong = made["false_alarms"] + made["missed"]
        of = made["good"] + made["anomalous"]
        hint = (
            f"{made['false_alarms']} false alarms, {made['missed']} missed; AUROC {number(auroc)}"
        )
        turned.append(Tile(f"Mistakes of {letter}", f"{wrong} of {of}", hint))
    turned.append(Tile("Mended", str(mended), "wrong by A, right by B"))
    turned.append(
        Tile("Broken", str(broken), "right by A, wrong by B", "bad" if broken > mended else "")
    )
    return turned


def _card(rank: int, item: Compared, galleries: Sequence[Gallery], at: int) -> dict[str, Any]:
    return {
        "rank": rank,
        "item": item,
        "truth": TRUTHS.get(item.label, ""),
        "way": " → ".join(side.verdict.text for side in item.sides),
        "pictures": [gallery.item(at) for gallery in galleries],
        "shares": [
            "–" if side.relative is None else f"{side.relative:.2f} ×" for side in item.sides
        ],
    }
