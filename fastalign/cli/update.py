"""``fastalign update``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from fastalign.cli.guard import guarded, warn
from fastalign.cli.numbers import flag
from fastalign.cli.options import (
    BitDepth,
    Debug,
    Details,
    Device,
    SkipBad,
    Threads,
    set_threads,
)
from fastalign.cli.progress import make_progress
from fastalign.words import count

if TYPE_CHECKING:
    from fastalign.engine import UpdatedFile


@guarded
def update(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The file that fit wrote.")],
    good: Annotated[
        str,
        typer.Option(
            "--good",
            help="Photographs of good parts that it takes for anomalies: a folder, an image or a "
            "glob pattern.",
            metavar="PATH",
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "--out", "-o", help="Write there.", metavar="FILE", show_default="in place of MODEL"
        ),
    ] = None,
    keep_threshold: Annotated[
        bool, flag("--keep-threshold", "Leave the thresholds as they are.")
    ] = False,
    device: Device = "cpu",
    threads: Threads = None,
    skip_bad: SkipBad = False,
    bit_depth: BitDepth = "auto",
    details: Details = False,
    debug: Debug = False,
) -> None:
    """Take more good photographs into a model, such as false alarms, without a new fit. The file as
    it was is kept beside it.

    Example: fastalign update screw.safetensors --good false_alarms/
    """
    from fastalign.data import parse_depth
    from fastalign.engine import update_file
    from fastalign.engine.environment import open_device

    set_threads(threads)
    with make_progress(details=details) as progress:
        found = update_file(
            model,
            good,
            out=out,
            keep_threshold=keep_threshold,
            skip_bad=skip_bad,
            device=open_device(device),
            depth=parse_depth(bit_depth),
            progress=progress,
        )
    _print(found)


def _print(found: UpdatedFile) -> None:
    changed = found.update
    for message in changed.warnings:
        warn(message)
    for item in found.skipped:
        warn(f"left out {item.reason}")
    for name, reason in changed.left_out:
        warn(f"left out {name}: {reason}")
    before, after = changed.before[0], changed.after[0]
    for one in changed.taken:
        shares = [
            f"{score / limit:.2f} x threshold" if limit > 0 else f"{score:.4g}"
            for score, limit in ((one.before, before), (one.after, after))
        ]
        near = f"  (nearly {one.near} of the fit)" if one.near else ""
        typer.echo(f"{one.name}: {' -> '.join(shares)}{near}")
    typer.echo(f"{count(len(changed.taken), 'photograph')} taken in")
    if math.isfinite(after):
        typer.echo(f"image threshold: {before:.6g} -> {after:.6g}")
    if changed.normal:
        typer.echo(
            f"scores of the fit's normal images: {changed.above_before} of {changed.normal} above "
            f"the threshold before, {changed.above_after} now"
        )
    typer.echo(f"{found.path}: the updated model")
    if found.backup is not None:
        typer.echo(f"{found.backup}: the model as it was")
