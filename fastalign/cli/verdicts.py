"""What ``predict`` found, for people: which images are anomalous, and how far."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from fastalign.words import count

if TYPE_CHECKING:
    from fastalign.engine import Predictions

_SHOWN = 20


def print_predictions(result: Predictions, *, everything: bool) -> None:
    """Counts, the anomalous images and those that are unsure, and where the files are.

    Args:
        result: what was found.
        everything: name all of them, however many.
    """
    from fastalign.engine.runfolder import REPORT
    from fastalign.engine.table import SCORES, highest_roi, relative
    from fastalign.verdict import Verdict

    anomalies, unsure = result.of(Verdict.ANOMALY), result.of(Verdict.UNSURE)
    good = len(result.images) - len(anomalies) - len(unsure)
    total = len(result.images) + len(result.skipped)
    threshold = result.image_threshold
    if threshold is None:
        typer.echo(f"{count(len(result.images), 'image')} scored, without verdicts")
        unsure = []
    else:
        parts = [count(len(anomalies), "anomaly"), f"{good} good"]
        if unsure or result.skipped:
            parts.append(f"{len(unsure) + len(result.skipped)} unsure")
        typer.echo(f"{count(total, 'image')}: {', '.join(parts)} (threshold {threshold:.4g})")
    lines = []
    for item in anomalies:
        share = relative(item.score, threshold)
        how_far = f"score {item.score:.4g}" if share is None else f"{share:.2f} x threshold"
        where = highest_roi(item.roi)
        named = "" if where is None else f" ({where})"
        lines.append(f"  anomaly     {how_far:>18}  {item.path}{named}")
    lines += [f"  unsure      {item.path}: {item.reason}" for item in unsure]
    lines += [f"  unsure      {item.path}: {item.reason}" for item in result.skipped]
    shown = lines if everything else lines[:_SHOWN]
    for line in shown:
        typer.echo(line)
    if len(shown) < len(lines):
        typer.echo(f"  and {len(lines) - len(shown)} more (--details names all)")
    typer.echo(f"scores: {result.out / SCORES}")
    if (result.out / REPORT).exists():
        typer.echo(f"page: {result.out / REPORT}")
